"""Indexing: fixed indices pick neurons, fed indices look rows up or say where to write."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.elementwise import aligned_axis
from graphclone.anatomy.flows.table import drop_axis, first, row
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Trace, Value, describe
from graphclone.errors import UnsupportedGraph


@row("Gather")
def gather(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Fixed indices pick neurons; indices that are fed look rows up, so all rows must stay."""
    value, indices = first(node, inputs), inputs[1]
    assert indices is not None
    axis = int(node.attrs.get("axis", 0)) % len(value.shape)
    middle: tuple[Factors, ...] = tuple(indices.factors)
    if value.axis(axis):
        if indices.static and indices.data is not None and indices.data.ndim <= 1:
            positions = indices.data.reshape(-1) % value.shape[axis]
            picked = tuple(f[positions] for f in value.axis(axis))
            if indices.data.ndim:
                middle = (picked,)
            elif not only_measured(trace, node):
                drop_axis(trace, node, picked)
        else:
            trace.note("lookup", node, [value], axis)
            trace.pin(value.axis(axis), f"looked up by {describe(node)}")
    return [
        Value(
            value.shape[:axis] + indices.shape + value.shape[axis + 1 :],
            value.factors[:axis] + middle + value.factors[axis + 1 :],
            static=value.static and indices.static,
        )
    ]


@row("GatherND")
def gather_nd(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Tuples of indices into the leading axes (after the batch ones); the trailing axes come along. A fixed list of
    indices into the first axis picks neurons."""
    value, indices = first(node, inputs), inputs[1]
    assert indices is not None
    batch = int(node.attrs.get("batch_dims", 0))
    depth = batch + indices.shape[-1]
    if depth == 1 and batch == 0 and indices.static and indices.data is not None and indices.data.ndim == 2:
        positions = indices.data.reshape(-1) % value.shape[0]
        picked = tuple(f[positions] for f in value.axis(0))
        return [Value((positions.size, *value.shape[1:]), (picked, *value.factors[1:]), static=value.static)]
    for factors in value.factors[:depth]:
        trace.pin(factors, f"looked up by {describe(node)}")
    lead = indices.shape[:-1]
    return [Value(lead + value.shape[depth:], tuple(() for _ in lead) + value.factors[depth:])]


def only_measured(trace: Trace, node: gs.Node) -> bool:
    """Is a value made for its shape alone (x[:, :, -1] to learn batch and length)? Then no neuron of it matters."""
    outputs = {t.name for t in trace.model.graph.outputs}
    return all(t.name not in outputs and all(n.op in ("Shape", "Size") for n in t.outputs) for t in node.outputs)


@row("GatherElements")
def gather_elements(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Indices have the output's shape, so what they were made for stays: the neurons they pick among are not cut."""
    value, indices = first(node, inputs), inputs[1]
    assert indices is not None
    for factors in value.factors:
        trace.pin(factors, f"picked one by one by {describe(node)}")
    axis = int(node.attrs.get("axis", 0)) % len(value.shape)
    kept = tuple(
        tuple(f[:d] for f in factors) if k != axis else ()
        for k, (factors, d) in enumerate(zip(value.factors, indices.shape, strict=True))
    )
    return [Value(indices.shape, kept)]


@row("ScatterElements")
def scatter_elements(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Indices say places along one axis, whose neurons stay; along the others what is written stands where it goes."""
    value, indices, updates = written(node, inputs)
    chosen = int(node.attrs.get("axis", 0)) % len(value.shape)
    axes: list[Factors] = []
    for axis, size in enumerate(value.shape):
        meeting = [v.axis(axis) for v in (value, indices, updates)]
        if axis == chosen or indices.shape[axis] != size:
            for factors in meeting:
                trace.pin(factors, f"written one by one by {describe(node)}")
            axes.append(value.axis(axis))
        else:
            axes.append(aligned_axis(trace, node, meeting))
    return [Value(value.shape, tuple(axes))]


@row("ScatterND")
def scatter_nd(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Tuples of indices say places along the leading axes, whose neurons stay; the trailing axes are written whole."""
    value, indices, updates = written(node, inputs)
    depth, lead = indices.shape[-1], len(indices.shape) - 1
    for factors in (*value.factors[:depth], *indices.factors, *updates.factors[:lead]):
        trace.pin(factors, f"written one by one by {describe(node)}")
    rest = zip(value.factors[depth:], updates.factors[lead:], strict=True)
    whole = tuple(aligned_axis(trace, node, [mine, theirs]) for mine, theirs in rest)
    return [Value(value.shape, value.factors[:depth] + whole)]


def written(node: gs.Node, inputs: list[Value | None]) -> tuple[Value, Value, Value]:
    """What is written into, where, and what."""
    value, indices, updates = (*inputs, None, None, None)[:3]
    if value is None or indices is None or updates is None:
        raise UnsupportedGraph(f"{describe(node)}: needs data, indices and updates")
    return value, indices, updates
