"""Repeats blocks, for a clone deeper than its parent: each copy stands behind its block (Samragh et al. 2023).

A copy has weights of its own, equal at first and never tied, and its own KV cache, numbered in between. It is made of
the finished clone, so that all that was cut and mended is in it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, Block
from graphclone.anatomy.trace import is_weight
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.recipes import held
from graphclone.surgery.drop_blocks import refuse_unknown
from graphclone.surgery.slice_weights import Slices


def repeat_blocks(made: Model, anatomy: Anatomy, plan: Plan, slices: Slices) -> dict[str, tuple[str, int]]:
    """Copy the plan's blocks in place; new graph inputs and outputs -> (the one that each is a copy of, which copy).

    Raises InvalidTarget for blocks that are not there, UnsupportedGraph for a block that reads what another one kept.
    """
    new: dict[str, tuple[str, int]] = {}
    refuse_unknown(anatomy, plan.repeat_blocks)
    for stack in anatomy.stacks:
        gone = set(plan.drop_blocks.get(stack.name, ()))
        counts = Counter(plan.repeat_blocks.get(stack.name, ()))
        for index in sorted(counts, reverse=True):
            block = next((b for b in stack.blocks if b.index == index and index not in gone), None)
            if block is None:
                raise InvalidTarget(f"plan: {stack.name} keeps no block {index} to repeat")
            for copy in range(counts[index], 0, -1):
                new |= _repeat(made.graph, block, copy, slices)
    if any(plan.repeat_blocks.values()):  # a graph without copies keeps its order
        made.graph.toposort()
    return new


@dataclass
class _Copy:
    """One copy of a block in the making: what stands in it for each tensor of the block."""

    graph: gs.Graph
    slices: Slices
    nodes: list[gs.Node]
    suffix: str
    renamed: dict[str, gs.Tensor]
    caches: list[str] = field(default_factory=list)  # inputs and outputs of the graph that the block has of its own

    def twin(self, tensor: gs.Tensor) -> gs.Tensor:
        """Weights and caches become new ones; what comes from outside stays."""
        if tensor.name not in self.renamed and isinstance(tensor, gs.Constant) and _is_trained(tensor):
            own = gs.Constant(tensor.name + self.suffix, np.zeros(0))
            own._values = tensor._values
            if tensor.name in self.slices.claims:
                self.slices.claims[own.name] = self.slices.claims[tensor.name]
            self.renamed[tensor.name] = own
        elif tensor.name not in self.renamed and _is_cache(tensor, self.graph):
            cache = gs.Variable(tensor.name + self.suffix, tensor.dtype, list(tensor.shape))
            _behind(self.graph.inputs, tensor, cache)
            self.caches.append(tensor.name)
            self.renamed[tensor.name] = cache
        return self.renamed.get(tensor.name, tensor)

    def make(self, node: gs.Node) -> gs.Node:
        """The node's twin."""
        outputs = [_like(t, t.name + self.suffix) for t in node.outputs]
        self.renamed |= {t.name: own for t, own in zip(node.outputs, outputs, strict=True) if t.name}
        inputs = [self.twin(t) for t in node.inputs]
        return gs.Node(node.op, f"{node.name}{self.suffix}", dict(node.attrs), inputs, outputs, domain=node.domain)


def _like(tensor: gs.Tensor, name: str) -> gs.Variable:
    return gs.Variable(name, tensor.dtype, tensor.shape) if tensor.name else gs.Variable.empty()


def _behind(tensors: list[gs.Tensor], known: gs.Tensor, new: gs.Tensor) -> None:
    tensors.insert(next(k for k, t in enumerate(tensors) if t is known) + 1, new)


def _repeat(graph: gs.Graph, block: Block, copy: int, slices: Slices) -> dict[str, tuple[str, int]]:
    """One copy, right behind the block: later copies were put there before."""
    tensors = graph.tensors()
    exit_, entry = tensors.get(block.exit), _entry(graph, block, tensors.get(block.entry))
    if exit_ is None or entry is None:
        raise UnsupportedGraph(
            f"block {block.index}: its ends {block.entry!r} and {block.exit!r} are no longer there: repeat another"
        )
    nodes = _inside(graph, block, entry, exit_)
    inside = {id(n) for n in nodes}
    readers = [(n, k) for n in exit_.outputs for k, t in enumerate(n.inputs) if t is exit_ and id(n) not in inside]
    made = _Copy(graph, slices, nodes, f"_again{copy}", {entry.name: exit_})
    graph.nodes += [made.make(node) for node in nodes]
    end = made.renamed[exit_.name]
    for node, position in readers:
        node.inputs[position] = end
    for tensor in [t for t in graph.outputs if t is not exit_ and t.inputs and id(t.inputs[0]) in inside]:
        _behind(graph.outputs, tensor, made.renamed[tensor.name])
        made.caches.append(tensor.name)
    for k, tensor in enumerate(graph.outputs):
        if tensor is exit_:  # the caller keeps the name
            end.name, exit_.name = exit_.name, end.name
            graph.outputs[k] = end
    return {name + made.suffix: (name, copy) for name in made.caches}


def _entry(graph: gs.Graph, block: Block, found: gs.Tensor | None) -> gs.Tensor | None:
    """What the block reads: its entry, or where the block before it went, what was joined to it."""
    keys = set(block.nodes)
    if found is not None and any(t.name in keys for n in found.outputs for t in n.outputs):
        return found
    outside = [t for n in graph.nodes if any(o.name in keys for o in n.outputs) for t in n.inputs]
    stream = [
        t
        for t in outside
        if isinstance(t, gs.Variable) and t.inputs and not {o.name for o in t.inputs[0].outputs} & keys
    ]
    return stream[0] if stream else None


def _inside(graph: gs.Graph, block: Block, entry: gs.Tensor, exit_: gs.Tensor) -> list[gs.Node]:
    """All that depends on the entry and leads to the exit or to a cache, and what weights and past pass first."""
    after: set[int] = set()
    waiting = list(entry.outputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in after:
            after.add(id(node))
            waiting += [n for t in node.outputs if t is not exit_ for n in t.outputs]
    keys = set(block.nodes)
    seen = {id(t) for t in graph.outputs}
    own = [n for n in graph.nodes if id(n) in after and any(t.name in keys for t in n.outputs)]
    ends = [n for n in own if any(t is exit_ or id(t) in seen for t in n.outputs)]
    inside: set[int] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if id(node) not in inside and (id(node) in after or _of_its_own(graph, node)):
            inside.add(id(node))
            waiting += [t.inputs[0] for t in node.inputs if t.inputs]
    return [n for n in graph.nodes if id(n) in inside]


def _of_its_own(graph: gs.Graph, node: gs.Node) -> bool:
    """Made of weights or of a cache alone: a Transpose, a Cast, a dequantisation; sizes are everybody's."""
    sources = [t for t in node.inputs if not t.is_empty()]
    alone = all(
        isinstance(t, gs.Constant) or _is_cache(t, graph) or (t.inputs and _of_its_own(graph, t.inputs[0]))
        for t in sources
    )
    return (
        alone
        and node.op not in ("Shape", "Size")
        and any(not isinstance(t, gs.Constant) or _is_trained(t) for t in sources)
    )


def _is_trained(tensor: gs.Constant) -> bool:
    """A weight, which a copy has of its own; single numbers and sizes are shared."""
    array = held(tensor)
    return array.size > 1 and is_weight(array)


def _is_cache(tensor: gs.Tensor, graph: gs.Graph) -> bool:
    """A float input of four axes: the past of an attention. Ids and masks are everybody's."""
    found = any(t is tensor for t in graph.inputs) and tensor.shape is not None and len(tensor.shape) == 4
    return found and str(np.dtype(tensor.dtype)) in ("float32", "float16", "float64", "bfloat16")
