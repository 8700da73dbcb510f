"""Convolution, pooling and resizing over spatial axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.operators.rows import Call, row
from graphclone.pytorch.values import Scalar, Symbol

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@row("Conv", 1, 11, 22, biases=(2,))
def conv(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    spatial = call.rank(weight) - 2
    strides = list(call.attr("strides", [1] * spatial))
    dilations = list(call.attr("dilations", [1] * spatial))
    before, after = _padding(call, x, weight, strides, dilations, spatial)
    if not all(isinstance(n, int) for n in (*before, *after)) or before != after:
        x = F.pad(x, [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair])
        before = [0] * spatial
    return CONVOLUTION[spatial](x, weight, bias, strides, before, dilations, int(call.attr("group", 1)))


def _padding(
    call: Call, x: Any, weight: Any, strides: list[int], dilations: list[int], spatial: int
) -> tuple[list[Scalar], list[Scalar]]:
    """Padding before and after each spatial axis; SAME makes the output ceil(size / stride) long."""
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = list(call.attr("pads", [0] * 2 * spatial)) if mode == "NOTSET" else [0] * 2 * spatial
        return pads[:spatial], pads[spatial:]
    kernel = call.sizes(weight)[2:]
    totals = [
        call.recorder.call(_same, call.size(x, axis + 2), strides[axis], (kernel[axis] - 1) * dilations[axis] + 1)
        for axis in range(spatial)
    ]
    halves = [call.recorder.call(_half, total, mode == "SAME_LOWER") for total in totals]
    others = [call.recorder.call(_half, total, mode != "SAME_LOWER") for total in totals]
    return halves, others


def _same(size: int, stride: int, reach: int) -> int:
    return max((-(-size // stride) - 1) * stride + reach - size, 0)


def _half(total: int, larger: bool) -> int:
    return total - total // 2 if larger else total // 2


@row("ConvTranspose", 1, 11, 22, biases=(2,))
def conv_transpose(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    if call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or call.attr("output_shape"):
        raise call.refuse("auto_pad or output_shape (explicit pads are supported)")
    spatial = call.rank(weight) - 2
    pads = list(call.attr("pads", [0] * 2 * spatial))
    extra = list(call.attr("output_padding", [0] * spatial))
    before, after = pads[:spatial], pads[spatial:]
    if before != after:
        raise call.refuse(f"pads {pads} that differ before and after")
    return TRANSPOSED[spatial](
        x,
        weight,
        bias,
        list(call.attr("strides", [1] * spatial)),
        before,
        extra,
        int(call.attr("group", 1)),
        list(call.attr("dilations", [1] * spatial)),
    )


POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(call: Call) -> tuple[int, dict[str, Any]]:
    kernel = list(call.attr("kernel_shape"))
    pads = list(call.attr("pads", [0] * 2 * len(kernel)))
    if call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or pads[: len(kernel)] != pads[len(kernel) :]:
        raise call.refuse("auto_pad, or pads that differ before and after")
    window = {
        "kernel_size": kernel,
        "stride": list(call.attr("strides", [1] * len(kernel))),
        "padding": pads[: len(kernel)],
        "ceil_mode": bool(call.attr("ceil_mode", 0)),
    }
    return len(kernel), window


@row("MaxPool", 8, 10, 11, 12, 22)
def max_pool(call: Call, x: Any) -> Any:
    call.refuse_outputs({1: "Indices"})
    spatial, window = _window(call)
    return POOLS[spatial](x, dilation=list(call.attr("dilations", [1] * spatial)), **window)


@row("AveragePool", 7, 10, 11, 19, 22)
def average_pool(call: Call, x: Any) -> Any:
    spatial, window = _window(call)
    if any(d != 1 for d in call.attr("dilations", [])) or window["ceil_mode"]:
        raise call.refuse("dilations or ceil_mode")
    return AVERAGES[spatial](x, count_include_pad=bool(call.attr("count_include_pad", 0)), **window)


@row("GlobalAveragePool", 1, 22)
def global_average_pool(call: Call, x: Any) -> Any:
    return x.mean(dim=list(range(2, call.rank(x))), keepdim=True)


@row("GlobalMaxPool", 1, 22)
def global_max_pool(call: Call, x: Any) -> Any:
    return torch.amax(x, dim=list(range(2, call.rank(x))), keepdim=True)


NEAREST = {("asymmetric", "floor"): "nearest"}


@row("Resize", 10, numbers=(1,))
def resize_by_scale(call: Call, x: Any, scales: list[Scalar]) -> Any:
    if call.attr("mode", "nearest") != "nearest":
        raise call.refuse("opset 10 linear resizing: convert the model to opset 11 or later")
    return _resized(call, x, scales, None, "asymmetric", "floor")


@row("Resize", 11, 13, 18, 19, numbers=(1, 2, 3))
def resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """The modes that torch computes with ONNX's own coordinates; the others are refused."""
    transform = call.attr("coordinate_transformation_mode", "half_pixel")
    if call.attr("antialias", 0) or call.attr("exclude_outside", 0):
        raise call.refuse("antialias or exclude_outside")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("keep_aspect_ratio_policy")
    axes = call.attr("axes")
    if axes is not None:
        rank = call.rank(x)
        where = {a % rank: i for i, a in enumerate(axes)}
        scales = [scales[where[a]] if a in where else 1.0 for a in range(rank)] if scales else None
        sizes = [sizes[where[a]] if a in where else call.size(x, a) for a in range(rank)] if sizes else None
    return _resized(call, x, scales or None, sizes or None, transform, call.attr("nearest_mode", "round_prefer_floor"))


def _resized(call: Call, x: Any, scales: Any, sizes: Any, transform: str, nearest: str) -> Any:
    mode, rank = call.attr("mode", "nearest"), call.rank(x)
    if rank not in (3, 4, 5):
        raise call.refuse(f"resizing rank {rank}")
    if mode == "nearest":
        name, align = NEAREST.get((transform, nearest)), None
        if name is None and _whole(transform, nearest, scales):
            name = "nearest"
    else:
        linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[rank]
        cubic = "bicubic" if rank == 4 and call.attr("cubic_coeff_a", -0.75) == -0.75 else None
        name = linear if mode == "linear" else cubic
        align = {"align_corners": True, "half_pixel": False, "pytorch_half_pixel": False}.get(transform)
        name = name if align is not None else None
    if name is None:
        raise call.refuse(f"mode {mode!r} with {transform!r} and {nearest!r} has no exact torch counterpart")
    target = {"size": sizes[2:]} if sizes else {"scale_factor": [_float(call, s) for s in scales[2:]]}
    return F.interpolate(x, mode=name, align_corners=align, **target)


def _whole(transform: str, nearest: str, scales: Any) -> bool:
    """By whole factors, half-pixel centres never fall halfway: every rounding picks what asymmetric floor picks."""
    centred = transform in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round_prefer")
    return centred and bool(scales) and all(not isinstance(s, Symbol) and float(s).is_integer() for s in scales)


def _float(call: Call, scale: Scalar) -> Scalar:
    return scale if isinstance(scale, float) else call.recorder.call(float, scale)


@row("Upsample", 9, numbers=(1,))
def upsample(call: Call, x: Any, scales: list[Scalar]) -> Any:
    return resize_by_scale(call, x, scales)
