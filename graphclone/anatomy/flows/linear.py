"""Products: the contracted axes are one set of neurons, the outer axes carry on."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.elementwise import aligned, aligned_axis
from graphclone.anatomy.flows.movement import taken
from graphclone.anatomy.flows.table import first, row
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.moving import sources
from graphclone.anatomy.trace import Trace, Value, describe, opset
from graphclone.errors import UnsupportedGraph

RESIZE_TO_SIZES = 11  # the operator set from which Resize takes a region, scales and sizes; before, scales alone


def pair(node: gs.Node, inputs: list[Value | None]) -> tuple[Value, Value]:
    """The two factors of a product."""
    if len(inputs) < 2 or inputs[0] is None or inputs[1] is None:
        raise UnsupportedGraph(f"{describe(node)}: needs two inputs")
    return inputs[0], inputs[1]


@row("MatMul")
@row("FusedMatMul", domain="com.microsoft")
def matmul(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """numpy.matmul on ids: batch axes aligned, the inner axes tied."""
    a, b = (_turned(node, value, side) for value, side in zip(pair(node, inputs), "AB", strict=True))
    if not _moved(trace, node, a, b):
        trace.note("product", node, [a, b])
    vector_a, vector_b = len(a.shape) == 1, len(b.shape) == 1
    trace.tie(node, a.axis(-1), b.axis(-1 if vector_b else -2))
    batch = aligned(trace, node, [_outer(a), _outer(b)])
    rows = () if vector_a else (a.shape[-2],)
    columns = () if vector_b else (b.shape[-1],)
    row_factors = () if vector_a else (a.axis(-2),)
    column_factors = () if vector_b else (b.axis(-1),)
    return [
        Value(
            batch.shape + rows + columns,
            batch.factors + row_factors + column_factors,
            static=a.static and b.static,
        )
    ]


def _turned(node: gs.Node, value: Value, side: str) -> Value:
    """A factor as FusedMatMul multiplies it: transBatch moves the first axis to before the last, then trans swaps the
    last two (onnxruntime/docs/ContribOperators.md)."""
    if node.attrs.get(f"transBatch{side}"):
        order = (*range(1, len(value.shape) - 1), 0, len(value.shape) - 1)
        value = Value(tuple(value.shape[k] for k in order), tuple(value.factors[k] for k in order), static=value.static)
    return swapped(value) if node.attrs.get(f"trans{side}") else value


def swapped(value: Value) -> Value:
    """The last two axes exchanged."""
    return Value(
        (*value.shape[:-2], value.shape[-1], value.shape[-2]),
        (*value.factors[:-2], value.factors[-1], value.factors[-2]),
        None if value.data is None else value.data.swapaxes(-1, -2),
        value.static,
    )


def _moved(trace: Trace, node: gs.Node, a: Value, b: Value) -> bool:
    """A constant factor that only moves the other's positions: what comes out is what went in, in another order."""
    for matrix, other, axis in ((b, a, -1), (a, b, -2)):
        given = matrix.data if matrix.static and len(other.shape) > 1 else None
        order = sources(given if axis == -1 else given.T) if given is not None else None
        if order is not None and len(order) == other.shape[axis]:
            trace.tie(node, taken(other, len(other.shape) + axis, order).axis(axis), matrix.axis(axis))
            return True
    return False


def _outer(value: Value) -> Value:
    return Value(value.shape[:-2], value.factors[:-2], static=value.static)


@row("Gemm")
@row("FusedGemm", domain="com.microsoft")
def gemm(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    a, b = pair(node, inputs)
    a = swapped(a) if node.attrs.get("transA") else a
    b = swapped(b) if node.attrs.get("transB") else b
    trace.note("product", node, [a, b])
    trace.tie(node, a.axis(-1), b.axis(-2))
    out = Value((a.shape[0], b.shape[1]), (a.axis(0), b.axis(1)), static=a.static and b.static)
    if len(inputs) > 2 and inputs[2] is not None:
        out = aligned(trace, node, [out, inputs[2]])
    return [out]


@row("Einsum")
def einsum(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Axes of one letter are aligned; letters that are not in the output are contracted."""
    operands = [v for v in inputs if v is not None]
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in left or not arrow or any(len(t) != len(v.shape) for t, v in zip(terms, operands, strict=True)):
        raise UnsupportedGraph(f"{describe(node)}: equation {node.attrs['equation']!r} has an ellipsis or no output")
    if len(operands) == 1 or len(operands) == 2 and node.inputs[0] is node.inputs[1] and terms[0] == terms[1]:
        for axis in (k for k, letter in enumerate(terms[0]) if letter not in right and operands[0].axis(k)):
            trace.note("reduction", node, operands[:1], axis)  # of squares, where it is a value times itself
    elif len(operands) == 2:
        trace.note("product", node, operands)
    factors: dict[str, list[Factors]] = {}
    sizes: dict[str, int] = {}
    for term, value in zip(terms, operands, strict=True):
        for k, letter in enumerate(term):
            factors.setdefault(letter, []).append(value.factors[k])
            sizes[letter] = max(sizes.get(letter, 1), value.shape[k])
    tied = {letter: aligned_axis(trace, node, found) for letter, found in factors.items()}
    return [Value(tuple(sizes[c] for c in right), tuple(tied[c] for c in right))]


@row("Conv", "ConvTranspose")
def conv(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Channels flow as through a matrix; the window's axes are not neurons. Where every channel is a group of its own
    it passes through, and the groups are as many as the channels; larger groups are not cut."""
    x, w = pair(node, inputs)
    groups = int(node.attrs.get("group", 1))
    transposed = node.op == "ConvTranspose"
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    alone = groups > 1 and groups == x.shape[1] == w.shape[0] and w.shape[1] == 1
    if not alone:
        trace.note("product", node, [x, w], 1)
    for axis in range(2, len(w.shape)):
        trace.pin(w.axis(axis), f"a window of {describe(node)}")
        trace.pin(x.axis(axis), f"an image convolved by {describe(node)}")
    out = w.axis(out_axis)
    channels = w.shape[out_axis]
    if groups == 1:
        trace.tie(node, x.axis(1), w.axis(in_axis))
    elif alone:
        trace.tie(node, x.axis(1), w.axis(0))
        trace.count(node, "group", w.axis(0), groups)
        out, channels = w.axis(0), groups
    else:
        reason = f"channels of {describe(node)} are cut in {groups} groups"
        for factors in (x.axis(1), w.axis(0), w.axis(1)):
            trace.pin(factors, reason)
        out, channels = ((), channels * groups) if transposed else (out, channels)
    if len(inputs) > 2 and inputs[2] is not None:
        trace.tie(node, out, inputs[2].axis(0))
    spatial = tuple(_window(node, x.shape[k], w.shape[k], k - 2, len(x.shape) - 2) for k in range(2, len(x.shape)))
    if transposed and "output_shape" in node.attrs:
        spatial = tuple(int(d) for d in node.attrs["output_shape"])
    return [Value((x.shape[0], channels, *spatial), (x.axis(0), out, *(() for _ in spatial)))]


def _window(node: gs.Node, size: int, kernel: int, k: int, rank: int) -> int:
    """Output length of a (transposed) convolution along one axis (onnx/docs/Operators.md, Conv and ConvTranspose)."""
    stride = node.attrs.get("strides", [1] * rank)[k]
    dilation = node.attrs.get("dilations", [1] * rank)[k]
    pads = node.attrs.get("pads", [0] * 2 * rank)
    reach = dilation * (kernel - 1) + 1
    padding = pads[k] + pads[k + rank]
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    if auto.startswith("SAME"):
        return int(size * stride) if node.op == "ConvTranspose" else int(-(-size // stride))
    if node.op == "ConvTranspose":
        extra = node.attrs.get("output_padding", [0] * rank)[k]
        return int(stride * (size - 1) + extra + reach - padding)
    if not node.attrs.get("ceil_mode"):
        return int((size + padding - reach) // stride + 1)
    rounded_up = -((reach - size - padding) // stride) + 1
    starts_outside = (rounded_up - 1) * stride >= size + pads[k]
    return int(rounded_up - starts_outside)


@row("Resize", "MaxPool", "AveragePool", "InstanceNormalization")
def spatial(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Channels pass through; only their images change size. A GroupNorm is written as an InstanceNormalization of all
    channels of a group in a row: they stay in their places."""
    value = first(node, inputs)
    outputs = _spatial_shape(trace, node, inputs, value)
    stays = node.op == "InstanceNormalization"
    factors = tuple(f if k < 2 or stays else () for k, f in enumerate(value.factors))
    for k in range(2, len(value.shape)):
        trace.pin(value.axis(k), f"{'normalised in groups' if stays else 'resampled'} by {describe(node)}")
    for setting in inputs[1:] if node.op == "Resize" else ():
        if setting is not None and setting.shape:
            trace.pin(setting.axis(0), f"says how {describe(node)} resamples")
    if node.op == "InstanceNormalization":
        for weight in inputs[1:]:
            if weight is not None:
                trace.tie(node, value.axis(1), weight.axis(0))
    return [Value(outputs, factors)]


def _spatial_shape(trace: Trace, node: gs.Node, inputs: list[Value | None], value: Value) -> tuple[int, ...]:
    lead, images = value.shape[:2], value.shape[2:]
    if node.op == "InstanceNormalization":
        return value.shape
    if node.op == "Resize":
        return _resized(trace, node, inputs, value)
    kernel = node.attrs["kernel_shape"]
    return lead + tuple(_window(node, d, kernel[k], k, len(images)) for k, d in enumerate(images))


def _resized(trace: Trace, node: gs.Node, inputs: list[Value | None], value: Value) -> tuple[int, ...]:
    """Resize names sizes or scales, of all axes or of some."""
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedGraph(f"{describe(node)}: keeping the aspect ratio is not understood: export fixed sizes")
    shape = list(value.shape)
    axes = node.attrs.get("axes") or range(len(shape))
    places = (2, 3) if opset(trace.model) >= RESIZE_TO_SIZES else (1, 2)
    scales, sizes = (inputs[i] if len(inputs) > i else None for i in places)
    if sizes is not None and sizes.data is not None:
        for axis, size in zip(axes, sizes.data, strict=True):
            shape[axis] = int(size)
    elif scales is not None and scales.data is not None:
        for axis, scale in zip(axes, scales.data, strict=True):
            shape[axis] = int(np.floor(shape[axis] * scale))
    else:
        raise UnsupportedGraph(f"{describe(node)}: neither sizes nor scales are known")
    return tuple(shape)
