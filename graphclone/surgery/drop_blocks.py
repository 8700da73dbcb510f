"""Removes whole blocks: what read a block's exit from the residual stream reads its entry instead."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, Block
from graphclone.anatomy.trace import Trace, node_key
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan


def drop_blocks(model: Model, anatomy: Anatomy, plan: Plan, trace: Trace) -> None:
    """Remove the plan's blocks from ``model`` in place."""
    dropped = [b for s in anatomy.stacks for b in _chosen(s.name, s.blocks, plan)]
    refuse_unknown(anatomy, plan.drop_blocks)
    if not dropped:
        return
    graph = model.graph
    tensors = graph.tensors()
    keys = {key for block in dropped for key in block.nodes}
    doomed = {id(node) for node in graph.nodes if node_key(node) in keys}
    read = {t.name for t in graph.inputs if t.outputs}
    # later blocks first: the entry of a block may be the exit of a dropped one before it, which is joined next
    for block in reversed(dropped):
        _join(graph, tensors[block.entry], tensors[block.exit], doomed)
    _move_shape_readers(graph, dropped, trace, doomed)
    move_readers_of_inputs(graph, doomed)
    graph.outputs[:] = [t for t in graph.outputs if not (t.inputs and id(t.inputs[0]) in doomed)]
    graph.cleanup()
    if left := [n for n in graph.nodes if id(n) in doomed]:
        raise UnsupportedGraph(
            f"dropping blocks {sorted(b.index for b in dropped)}: {left[0].op} node {left[0].name!r} of a dropped one "
            f"is still read by a kept one"
        )
    graph.inputs[:] = [t for t in graph.inputs if t.outputs or t.name not in read]  # the caches of dropped blocks


def refuse_unknown(anatomy: Anatomy, chosen: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InvalidTarget where a plan names blocks of a stack that is not there."""
    known = [s.name for s in anatomy.stacks]
    if unknown := set(chosen) - set(known):
        raise InvalidTarget(f"plan: no stack named {', '.join(sorted(unknown))}; the parent has {', '.join(known)}")


def _chosen(stack: str, blocks: tuple[Block, ...], plan: Plan) -> list[Block]:
    chosen = set(plan.drop_blocks.get(stack, ()))
    if chosen and (max(chosen) >= len(blocks) or min(chosen) < 0 or len(chosen) == len(blocks)):
        raise InvalidTarget(f"plan: cannot drop blocks {sorted(chosen)} of the {len(blocks)} in stack {stack}")
    return [b for b in blocks if b.index in chosen]


def _join(graph: gs.Graph, entry: gs.Tensor, exit_: gs.Tensor, doomed: set[int]) -> None:
    for node in list(exit_.outputs):
        if id(node) not in doomed or node.op == "Shape":
            for position, tensor in enumerate(node.inputs):
                if tensor.name == exit_.name:
                    node.inputs[position] = entry
    for position, tensor in enumerate(graph.outputs):
        if tensor.name == exit_.name:  # the caller keeps the name
            exit_.inputs.clear()
            graph.nodes.append(gs.Node("Identity", f"{exit_.name}_joined", inputs=[entry], outputs=[exit_]))
            graph.outputs[position] = exit_


def move_readers_of_inputs(graph: gs.Graph, doomed: set[int]) -> None:
    """Sizes that kept nodes read off the inputs of ``doomed`` ones (a dropped block's cache) are read off an input of
    the same declared shape that stays."""
    for gone in [t for t in graph.inputs if any(id(n) in doomed for n in t.outputs)]:
        left = [n for n in gone.outputs if id(n) not in doomed]
        like = [t for t in graph.inputs if (t.dtype, t.shape) == (gone.dtype, gone.shape) and _is_read(t, doomed)]
        if like and gone.shape is not None and None not in gone.shape and all(n.op == "Shape" for n in left):
            for node in left:
                node.inputs[0] = like[0]


def _is_read(tensor: gs.Tensor, doomed: set[int]) -> bool:
    return any(id(n) not in doomed and n.op != "Shape" for n in tensor.outputs)


def _move_shape_readers(graph: gs.Graph, dropped: list[Block], trace: Trace, doomed: set[int]) -> None:
    """Kept nodes may read sizes off a value inside a dropped block; its entry has the same."""
    tensors = graph.tensors()
    for block in dropped:
        entry_shape = trace.values[block.entry].shape
        inside = set(block.nodes)
        for node in [n for n in graph.nodes if n.op == "Shape" and n.inputs[0].inputs]:
            maker = node.inputs[0].inputs[0]
            if node_key(maker) in inside and trace.values[node.inputs[0].name].shape == entry_shape:
                source = tensors[block.entry]
                while source.inputs and id(source.inputs[0]) in doomed:
                    source = tensors[next(b.entry for b in dropped if b.exit == source.name)]
                node.inputs[0] = source
