"""Reductions over neurons: where they happen over the residual stream stands a normalisation."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.elementwise import aligned
from graphclone.anatomy.flows.table import first, ints, row
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Trace, Value, describe, plain

REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare"
).split()


@row(*REDUCTIONS)
def reduction(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    rank = len(value.shape)
    axes = ints(node, inputs, "axes", 1)
    if not axes:
        axes = [] if node.attrs.get("noop_with_empty_axes") else list(range(rank))
    gone = {a % rank for a in axes}
    for axis in sorted(gone):
        if value.axis(axis):
            trace.note("reduction", node, [value], axis)
    keep = bool(node.attrs.get("keepdims", 1))
    kept = [i for i in range(rank) if keep or i not in gone]
    shape = tuple(1 if i in gone else value.shape[i] for i in kept)
    factors: tuple[Factors, ...] = tuple(() if i in gone else value.factors[i] for i in kept)
    return [Value(shape, factors, static=value.static)]


@row("GlobalAveragePool")
def global_pool(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """A reduction over all axes from the third on: tf2onnx writes the mean of a LayerNorm so."""
    value = first(node, inputs)
    for axis in range(2, len(value.shape)):
        if value.axis(axis):
            trace.note("reduction", node, [value], axis)
    images = len(value.shape) - 2
    return [Value(value.shape[:2] + (1,) * images, value.factors[:2] + ((),) * images, static=value.static)]


@row("ArgMax", "ArgMin", "TopK")
def ranking(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """A rank among neurons is a statement about all of them."""
    value = first(node, inputs)
    axis = int(node.attrs.get("axis", 0 if node.op != "TopK" else -1)) % len(value.shape)
    trace.pin(value.axis(axis), f"ranked by {describe(node)}")
    size = 1
    if node.op == "TopK":
        size = (ints(node, inputs, "k", 1) or [1])[0]
    keep = node.op == "TopK" or bool(node.attrs.get("keepdims", 1))
    kept = [i for i in range(len(value.shape)) if keep or i != axis]
    shape = tuple(size if i == axis else value.shape[i] for i in kept)
    factors: tuple[Factors, ...] = tuple(() if i == axis else value.factors[i] for i in kept)
    return [Value(shape, factors)] * len(node.outputs)


@row("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Gain and bias align with the normalised axes."""
    value = first(node, inputs)
    rank = len(value.shape)
    axis = int(node.attrs.get("axis", -1)) % rank
    for k in range(axis, rank):
        trace.note("norm", node, [v for v in inputs if v is not None], k)
    for parameter in inputs[1:]:
        if parameter is not None:
            for k in range(1, len(parameter.shape) + 1):
                trace.tie(node, value.axis(-k), parameter.axis(-k))
    statistics = Value(
        tuple(1 if k >= axis else d for k, d in enumerate(value.shape)),
        tuple(() if k >= axis else f for k, f in enumerate(value.factors)),
    )
    out = Value(value.shape, value.factors)
    return [out] + [statistics] * (sum(1 for t in node.outputs if t.name) - 1)


@row("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Norm of a sum: input, skip, gain, [bias of the norm,] [bias added before]. Output 3 is the sum."""
    value = first(node, inputs)
    trace.note("norm", node, [v for v in inputs if v is not None], len(value.shape) - 1)
    out = aligned(trace, node, [v for v in inputs if v is not None])
    statistics = plain((*value.shape[:-1], 1))
    return [out, statistics, statistics, out][: len(node.outputs)]


@row("EmbedLayerNormalization", domain="com.microsoft")
def embedding_normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """input_ids, segment_ids, three tables [rows, hidden], gain, bias. Output 2 is the sum before the norm."""
    ids = first(node, inputs)
    tables = [v for v in inputs[2:5] if v is not None]
    for table in tables:
        trace.note("lookup", node, [table], 0)
        trace.pin(table.axis(0), f"looked up by {describe(node)}")
    hidden = tables[0].axis(1)
    for other in (*(t.axis(1) for t in tables[1:]), *(v.axis(0) for v in inputs[5:7] if v is not None)):
        trace.tie(node, hidden, other)
    out = Value((*ids.shape, tables[0].shape[1]), (*(() for _ in ids.shape), hidden))
    trace.note("norm", node, [out], len(out.shape) - 1)
    return [out, plain((ids.shape[0],)), out][: len(node.outputs)]


@row("LpNormalization", "MeanVarianceNormalization")
def plain_normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    axes = node.attrs.get("axes", [0, 2, 3]) if node.op == "MeanVarianceNormalization" else [node.attrs.get("axis", -1)]
    for axis in axes:
        trace.note("norm", node, [value], axis % len(value.shape))
    return [Value(value.shape, value.factors)]


@row("BatchNormalization")
def batch_normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    for parameter in inputs[1:5]:
        if parameter is not None:
            trace.tie(node, value.axis(1), parameter.axis(0))
    return [Value(value.shape, value.factors)]


@row("GroupNormalization")
def group_normalization(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    for axis in range(1, len(value.shape)):
        trace.pin(value.axis(axis), f"normalised in groups by {describe(node)}")
    for parameter in inputs[1:]:
        if parameter is not None:
            trace.pin(parameter.axis(0), f"normalised in groups by {describe(node)}")
    return [Value(value.shape, value.factors)]
