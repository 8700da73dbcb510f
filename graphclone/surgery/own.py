"""Weights of one block only: without the block, no output depends on them.

The clone's record names them of every block that the plan drops, halves or repeats, as the parent's graph and anatomy
have them: what the surgery did is measured against that, and not against itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.concrete import captured
from graphclone.anatomy.parts import Anatomy, Block
from graphclone.anatomy.trace import is_weight, node_key
from graphclone.graph import Model
from graphclone.plan import Plan

Own = dict[str, dict[str, dict[str, list[str]]]]  # the plan's field -> stack -> block -> names of initializers
BRANCHES = ("drop_attention", "drop_feed_forward")


def own_weights(parent: Model, anatomy: Anatomy, plan: Plan, left: Collection[str]) -> Own:
    """``left``: the parent's initializers that the clone still has. Of a block that loses its attention or feed-forward
    they and the other branch's weights are not named: so it is told what went with a branch (its norm, its biases)."""
    found: Own = {}
    fields = ("drop_blocks", *BRANCHES, "repeat_blocks")
    if not any(getattr(plan, field) for field in fields):
        return found
    graph = _Graph(parent.graph)
    dropped = [block for _, block in _chosen(anatomy, plan, "drop_blocks")]
    for field in fields:
        chosen = list(_chosen(anatomy, plan, field))
        together = graph.only_by([*dropped, *(block for _, block in chosen)])  # dropped ones may share theirs
        for stack, block in chosen:
            if field == "repeat_blocks":
                names = graph.only_by([block])
            else:
                names = together & graph.read_by(block)
            if field in BRANCHES:
                names -= {*_of_the_other(block, field), *left}
            found.setdefault(field, {}).setdefault(stack, {})[str(block.index)] = sorted(names)
    return found


def _chosen(anatomy: Anatomy, plan: Plan, field: str) -> Iterator[tuple[str, Block]]:
    for stack in anatomy.stacks:
        chosen = set(getattr(plan, field).get(stack.name, ()))
        if field != "drop_blocks":
            chosen -= set(plan.drop_blocks.get(stack.name, ()))
        yield from ((stack.name, block) for block in stack.blocks if block.index in chosen)


def _of_the_other(block: Block, field: str) -> Iterator[str]:
    if field == "drop_attention":
        yield from (name for part in block.feed_forward for name in (*part.up, *part.down))
    else:
        yield from (name for part in block.attention for name in (*part.q, *part.k, *part.v, *part.o))


class _Graph:
    def __init__(self, graph: gs.Graph) -> None:
        nodes = [node for node in graph.nodes if any(t.name for t in node.outputs)]
        self.makers = {t.name: node_key(node) for node in nodes for t in node.outputs if t.name}
        self.reads = {node_key(n): [*(t.name for t in n.inputs if t.name), *captured(n)] for n in nodes}
        self.outputs = [t.name for t in graph.outputs]
        tensors = graph.tensors()
        self.weights = {n for n, t in tensors.items() if isinstance(t, gs.Constant) and is_weight(t.values)}
        self.used = self._reached(self.outputs, frozenset(), {})

    def only_by(self, blocks: Sequence[Block]) -> set[str]:
        """Weights that no output depends on once these blocks are gone, and their cut points joined."""
        doomed = frozenset(key for block in blocks for key in block.nodes)
        reached = self._reached(self.outputs, doomed, {block.exit: [block.entry] for block in blocks})
        return self.weights & self.used - reached

    def read_by(self, block: Block) -> set[str]:
        """Weights that what a block makes depends on, those before its entry left out."""
        made = [key for key in block.nodes if key in self.reads]
        return self.weights & self._reached([*made, block.exit], frozenset(), {block.entry: []})

    def _reached(self, starts: Sequence[str], doomed: frozenset[str], joined: dict[str, list[str]]) -> set[str]:
        """What some values depend on. Doomed nodes make nothing; what stands for a value is read in its place."""
        reached: set[str] = set()
        waiting = list(starts)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            maker = self.makers.get(name)
            if name in joined:
                waiting += joined[name]
            elif maker is not None and maker not in doomed:
                waiting += self.reads[maker]
        return reached
