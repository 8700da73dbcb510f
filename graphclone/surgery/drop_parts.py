"""Removes attention or feed-forward alone: what the branch adds is left out of its sum with the residual stream.

A branch begins where a block reads the stream and ends in a sum with it (with the other branch, where both are
parallel). What is left out is all that the branch is: its norm before, its bias, its norm or scale after. A norm after
the sum (post-norm) stays: it normalises the stream alone. So the clone equals the parent whose branch ends in zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, Block
from graphclone.anatomy.structure import NORMS_OF_SUMS, SUMS
from graphclone.anatomy.trace import Trace, describe, node_key
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.surgery.drop_blocks import refuse_unknown

PLAIN = {  # norms of sums, without their sum
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}


def drop_parts(model: Model, anatomy: Anatomy, plan: Plan, trace: Trace) -> None:
    """Remove the plan's attentions and feed-forwards from ``model`` in place.

    Raises InvalidTarget for blocks that are not there or have no such part, UnsupportedGraph where a branch ends in no
    sum with the stream.
    """
    ends = list(_ends(anatomy, plan))
    if not ends:
        return
    graph = model.graph
    read = {t.name for t in graph.inputs if t.outputs}
    makers = {node_key(n): n for n in graph.nodes}
    for what, key in ends:
        node = makers[key]
        _leave_out(graph, node, what, trace)
    caches = _caches(graph, anatomy, plan, {n.outputs[0].name for n in graph.nodes})
    graph.outputs[:] = [t for t in graph.outputs if t.name not in caches]
    graph.cleanup()
    alive = {id(n) for n in graph.nodes}
    for what, key in ends:
        if id(makers[key]) in alive:
            raise UnsupportedGraph(f"{what}: {describe(makers[key])} is still read elsewhere: drop the whole block")
    graph.inputs[:] = [t for t in graph.inputs if t.outputs or t.name not in read]


def _ends(anatomy: Anatomy, plan: Plan) -> Iterator[tuple[str, str]]:
    """(what is dropped, in words; the product by which it writes the stream)."""
    for kind, chosen in (("attention", plan.drop_attention), ("feed-forward", plan.drop_feed_forward)):
        refuse_unknown(anatomy, chosen)
        for stack in anatomy.stacks:
            gone = set(plan.drop_blocks.get(stack.name, ()))
            for index in sorted(set(chosen.get(stack.name, ())) - gone):
                block = next((b for b in stack.blocks if b.index == index), None)
                weights = set(_writers(block, kind)) if block else set()
                if block is None or not weights:
                    raise InvalidTarget(
                        f"plan: {stack.name} has {len(stack.blocks)} blocks, and no {kind} in block {index} to drop"
                    )
                inside = set(block.nodes)
                for linear in anatomy.linears:
                    if linear.weight in weights and linear.output in inside and stack.residual in linear.writes:
                        yield f"dropping the {kind} of block {index}", linear.output


def _writers(block: Block, kind: str) -> list[str]:
    parts = [a.o for a in block.attention] if kind == "attention" else [f.down for f in block.feed_forward]
    return [weight for weights in parts for weight in weights]


def _leave_out(graph: gs.Graph, end: gs.Node, what: str, trace: Trace) -> None:
    """Follow what a product writes to the first sum with something that it has no part in; the sum becomes that."""
    branch = {t.name for t in end.outputs}
    waiting = [end]
    order = {id(n): k for k, n in enumerate(graph.nodes)}
    seen: set[int] = set()
    while waiting:
        waiting.sort(key=lambda n: -order[id(n)])
        node = waiting.pop()
        others = [t for t in node.inputs if t.name not in branch and _is_activation(t, trace)]
        if node is not end and others and node.op in (*SUMS, *PLAIN):
            _without(graph, node, branch)
            return
        if node is not end and others:
            break
        branch |= {t.name for t in node.outputs}
        readers = {id(n): n for t in node.outputs for n in t.outputs if n.op != "Shape"}
        waiting += [n for key, n in readers.items() if key not in seen]
        seen |= readers.keys()
    raise UnsupportedGraph(
        f"{what}: what {describe(end)} writes ends in no sum with the stream (it meets {describe(node)} first): drop "
        f"the whole block"
    )


def _is_activation(tensor: gs.Tensor, trace: Trace) -> bool:
    """Neither a weight nor made of weights and shapes alone."""
    value = trace.values.get(tensor.name)
    return isinstance(tensor, gs.Variable) and (value is None or not (value.static or value.data is not None))


def _without(graph: gs.Graph, node: gs.Node, branch: set[str]) -> None:
    """The sum without the branch: the other operand where there is one, a shorter sum, or the plain norm."""
    for reader in [n for name in branch for n in _shape_readers(graph, name)]:
        reader.inputs[0] = next(t for t in node.inputs if t.name not in branch)
    if node.op in PLAIN:
        stream = next(t for t in node.inputs[:2] if t.name not in branch)
        weights = [t for t in node.inputs[2 : NORMS_OF_SUMS[node.op]] if not t.is_empty()]
        attributes = {"axis": -1, "epsilon": node.attrs.get("epsilon", 1e-12)}
        node.op, node.domain, node.attrs = PLAIN[node.op], "", attributes
        node.inputs = [stream, *weights]
        return
    kept = [t for t in node.inputs if t.name not in branch]
    if len(kept) > 1:
        node.inputs = kept
        return
    output = node.outputs[0]
    for reader in list(output.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is output:
                reader.inputs[position] = kept[0]
    for position, tensor in enumerate(graph.outputs):
        if tensor is output:  # the caller keeps the name
            node.op, node.domain, node.attrs, node.inputs = "Identity", "", {}, kept
            graph.outputs[position] = output
            return
    node.inputs = []  # it is no sum any more to what a part's next end is followed to


def _shape_readers(graph: gs.Graph, name: str) -> list[gs.Node]:
    tensor = graph.tensors().get(name)
    return [n for n in tensor.outputs if n.op == "Shape"] if tensor is not None else []


def _caches(graph: gs.Graph, anatomy: Anatomy, plan: Plan, made: set[str]) -> set[str]:
    """Graph outputs that still depend on a dropped attention's projections: its caches, as the stream does not.

    Raises UnsupportedGraph where another block reads them: keys and values that are shared.
    """
    kept = {b.exit for s in anatomy.stacks for b in s.blocks}
    found: set[str] = set()
    for stack in anatomy.stacks:
        for block in stack.blocks:
            if block.index not in plan.drop_attention.get(stack.name, ()):
                continue
            weights = {w for a in block.attention for w in (*a.q, *a.k, *a.v)}
            starts = [ln.output for ln in anatomy.linears if ln.weight in weights and ln.output in made]
            inside = [name for name in starts if name in set(block.nodes)]
            reached = _reached(graph, inside or starts)
            if shared := sorted(reached & kept):
                raise UnsupportedGraph(
                    f"dropping the attention of block {block.index}: what it projects is read on the way to "
                    f"{shared[0]!r} as well, by another block: drop that one's too, or none"
                )
            found |= reached & {t.name for t in graph.outputs}
    return found


def _reached(graph: gs.Graph, starts: list[str]) -> set[str]:
    """What depends on some values, themselves included; on their shapes alone does not count."""
    tensors = graph.tensors()
    reached, waiting = set(starts), [tensors[name] for name in starts]
    while waiting:
        for node in waiting.pop().outputs:
            fresh = [t for t in node.outputs if t.name not in reached and node.op != "Shape"]
            reached |= {t.name for t in fresh}
            waiting += fresh
    return reached
