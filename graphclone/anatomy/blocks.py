"""Blocks: the repeated segments of the residual stream.

A *cut point* is a value of the residual stream on which everything after it depends, side inputs (masks, position
tables, another stack's output) apart. Between two cut points lies a segment; segments are compared by structure:
operators, the edges between them, no names, no sizes. A stack is the longest run of segments that repeats with a
period; one period is a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.periods import is_attention, longest_run, single_block
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.segments import PRODUCTS, Cut, Run, Segment
from graphclone.anatomy.structure import NONE, expression, skeleton
from graphclone.anatomy.trace import Value, node_key

MOVES = ("Add", "Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # between a product and its parts
ATTENDS = ("attention", "softmax")


class Stream:
    """The nodes that depend on one residual group, in graph order."""

    def __init__(self, found: Grouping, residual: Group, nodes: list[gs.Node]) -> None:
        self.found, self.residual, self.nodes = found, residual, nodes
        self.on_stream: set[str] = set()
        self.depends: set[str] = set()
        self.last_use: dict[str, int] = {}
        self._index = found.groups.index(residual)
        for position, node in enumerate(self.nodes):
            self._visit(position, node)
        for tensor in found.trace.model.graph.outputs:  # the stream's end, where nothing reads it but the caller
            if tensor.name in self.on_stream:
                self.last_use.setdefault(tensor.name, len(self.nodes))
        self._leave_exits()

    def _visit(self, position: int, node: gs.Node) -> None:
        trace = self.found.trace
        read = [t.name for t in node.inputs if t.name in self.depends]
        for name in read:
            if any(not self._settled(t.name) for t in node.outputs if t.name):
                self.last_use[name] = position
        for tensor in node.outputs:
            value = trace.values.get(tensor.name) if tensor.name else None  # all omitted outputs share an empty name
            if value is None or value.static or self._settled(tensor.name):
                continue
            carries = self._index in self.found.of_value[tensor.name]
            if carries:
                self.on_stream.add(tensor.name)
            if carries or read:
                self.depends.add(tensor.name)

    def _leave_exits(self) -> None:
        """What is read from the stream and only leads out of the model, as a classifier after every layer, keeps no
        cut point alive and has none. Where an attention is on such a way it may be a stack: nothing is left then."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            most = max((depth.get(t.name, 0) for t in node.inputs), default=0)
            depth |= {t.name: most + 1 for t in node.outputs if t.name in self.depends}
        leads = {max(self.on_stream, key=lambda name: depth[name])} if self.on_stream else set()
        onward: dict[str, int] = {}
        for position in reversed(range(len(self.nodes))):
            node = self.nodes[position]
            if any(t.name in leads for t in node.outputs):
                read = [t.name for t in node.inputs if t.name in self.depends]
                leads.update(read)
                onward = dict.fromkeys(read, position) | onward
        exits: set[str] = set()
        for node in self.nodes:
            if any(t.name in leads or t.name in exits for t in node.inputs):
                exits.update(t.name for t in node.outputs if t.name in self.depends and t.name not in leads)
        if not any(t.name in exits for n in self.found.trace.notes if n.kind in ATTENDS for t in n.node.outputs):
            self.on_stream -= exits
            self.depends -= exits
            self.last_use |= onward

    def _settled(self, name: str) -> bool:
        """Shapes and masks: computed without weights, available everywhere."""
        value = self.found.trace.values.get(name)
        return value is not None and value.data is not None

    def cuts(self) -> list[Cut]:
        """All cut points, in order."""
        alive: set[str] = set()
        cuts = []
        for position, node in enumerate(self.nodes):
            alive = {name for name in alive if self.last_use[name] > position}
            alive |= {
                t.name for t in node.outputs if t.name in self.depends and self.last_use.get(t.name, -1) > position
            }
            made = [t.name for t in node.outputs if t.name in self.on_stream and t.name in alive]
            if len(made) == 1:
                cuts.append(Cut(position, made[0], frozenset(alive - {made[0]})))
        return cuts

    @cached_property
    def contexts(self) -> dict[frozenset[str], list[Cut]]:
        """Cut points by what else is alive beside them.

        An encoder's output is alive until the last cross-attention has read it: the cut points of the decoder that come
        after still belong with those before.
        """
        found: dict[frozenset[str], list[Cut]] = {}
        for cut in self.cuts():
            for beside, earlier in found.items():
                ended = beside - cut.beside
                if ended and cut.beside <= beside and earlier and all(self._read_by_many(name) for name in ended):
                    earlier.append(cut)
            found.setdefault(cut.beside, []).append(cut)
        return found

    def _read_by_many(self, name: str) -> bool:
        """By the keys and values of two cross-attentions at least."""
        return read_by_many(self.found.producers[name].outputs) if name in self.found.producers else False

    def segments(self, cuts: Sequence[Cut]) -> list[Segment]:
        """What lies between each cut point and the next."""
        found = []
        for before, after in pairwise(cuts):
            nodes = tuple(
                n
                for n in self.nodes[before.position + 1 : after.position + 1]
                if any(t.name in self.depends for t in n.outputs)
            )
            made = expression(before.value, after.value, nodes, self._kind)
            bare = skeleton(nodes, self._kind) if is_attention(self.found.trace, nodes) else made
            found.append(Segment(before.value, after.value, nodes, made, bare))
        return found

    def _kind(self, node: gs.Node, index: int) -> str:
        return _kind(self.found.trace.input(node, index))


def _kind(value: Value | None) -> str:
    """What kind of operand enters a segment: size, weight or side input.

    Constant and computed sizes count alike, because optimisers fold them in one block and not in the next.
    """
    if value is None:
        return NONE
    if value.data is not None and value.data.dtype.kind in "iub":
        return "size"
    return "weight" if value.static else "side"


def read_by_many(tensors: Sequence[gs.Tensor]) -> bool:
    """By the keys and values of two cross-attentions at least, each in a product of its own or both in one."""
    return any(sum(_brings(n) for n in t.outputs if n.op in PRODUCTS) >= 4 for t in tensors)


def _brings(product: gs.Node) -> int:
    """2 if the product makes keys and values packed, else 1: its output is split in two before any reshape into heads,
    or indexed on a leading axis of 2. A later split is rotary embedding's."""
    tensor, shaped = product.outputs[0], False
    while True:
        readers = [n for n in tensor.outputs if n.op not in ("Shape", "Size")]
        if len(readers) != 1 or readers[0].op not in MOVES:
            break
        shaped |= readers[0].op in ("Reshape", "Transpose")
        tensor = readers[0].outputs[0]
    split = not shaped and len(readers) == 1 and readers[0].op == "Split" and len(readers[0].outputs) == 2
    items = len(readers) == 2 and all(n.op == "Gather" and int(n.attrs.get("axis", 0)) == 0 for n in readers)
    return 2 if split or items else 1


def depth_first(graph: gs.Graph) -> list[gs.Node]:
    """A topological order that finishes one tower before the next, and an encoder before its decoder, however the file
    interleaves them."""
    ends = [t.inputs[0] for t in graph.outputs if t.inputs]
    roots = [*(n for n in graph.nodes if read_by_many(n.outputs)), *ends, *graph.nodes]
    order: list[gs.Node] = []
    done: set[str] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        key = node_key(node)
        if ready and key not in done:
            done.add(key)
            order.append(node)
        elif key not in done:
            stack.append((node, True))
            stack.extend((t.inputs[0], False) for t in reversed(node.inputs) if t.inputs)
    return order


def runs(found: Grouping, made: Sequence[Projection]) -> list[Run]:
    """Every stack of the graph, in graph order; a stack of one block only where nothing repeats along a stream.

    A residual stream is read by several projections and written by several; nothing else is.
    """
    read = Counter(id(g) for p in made for g in set(p.reads))
    written = Counter(id(g) for p in made for g in set(p.writes))
    candidates = [g for g in found.groups if read[id(g)] > 1 and written[id(g)] > 1]
    nodes = depth_first(found.trace.model.graph)
    streams = [Stream(found, g, nodes) for g in sorted(candidates, key=lambda g: -len(g.slots))]
    stacks: list[tuple[int, Run]] = []
    taken: set[str] = set()
    for choose in (longest_run, single_block):
        having = {id(run.residual) for _, run in stacks}
        for stream in streams:
            if id(stream.residual) not in having:
                stacks += _runs(found, stream, choose, taken)
    return [run for _, run in sorted(stacks, key=lambda s: s[0])]


def _runs(
    found: Grouping,
    stream: Stream,
    choose: Callable[[Grouping, Group, list[Segment]], Run | None],
    taken: set[str],
) -> list[tuple[int, Run]]:
    """The stacks along one stream, with where they begin; ``taken`` collects their nodes, which are no other's."""
    stacks = []
    for cuts in stream.contexts.values():
        run = choose(found, stream.residual, stream.segments(cuts))
        names = {node_key(n) for block in run.blocks for s in block for n in s.nodes} if run else set()
        if run is not None and not names & taken:
            taken |= names
            stacks.append((cuts[0].position, run))
    return stacks
