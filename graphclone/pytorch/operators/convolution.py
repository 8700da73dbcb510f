"""Convolution and pooling over spatial axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.operators.rows import Call, row
from graphclone.pytorch.values import Scalar

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@row("Conv", 1, 11, 22, biases=(2,))
def conv(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    spatial = call.rank(weight) - 2
    strides = list(call.attr("strides", [1] * spatial))
    dilations = list(call.attr("dilations", [1] * spatial))
    before, after = _padding(call, x, call.sizes(weight)[2:], strides, dilations, spatial)
    if not all(isinstance(n, int) for n in (*before, *after)) or before != after:
        x = F.pad(x, _around(before, after))
        before = [0] * spatial
    return CONVOLUTION[spatial](x, weight, bias, strides, before, dilations, int(call.attr("group", 1)))


def _padding(
    call: Call, x: Any, kernel: list[Scalar], strides: list[int], dilations: list[int], spatial: int
) -> tuple[list[Scalar], list[Scalar]]:
    """Padding before and after each spatial axis; SAME makes the output ceil(size / stride) long."""
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = list(call.attr("pads", [0] * 2 * spatial)) if mode == "NOTSET" else [0] * 2 * spatial
        return pads[:spatial], pads[spatial:]
    totals = [
        call.recorder.call(_same, call.size(x, axis + 2), strides[axis], (kernel[axis] - 1) * dilations[axis] + 1)
        for axis in range(spatial)
    ]
    halves = [call.recorder.call(_half, total, mode == "SAME_LOWER") for total in totals]
    others = [call.recorder.call(_half, total, mode != "SAME_LOWER") for total in totals]
    return halves, others


def _around(before: list[Scalar], after: list[Scalar]) -> list[Scalar]:
    """As F.pad takes it, from the last axis on."""
    return [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]


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


@dataclass(frozen=True)
class _Window:
    """What slides over the image; the padding that torch does not take itself is put around the image before."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    padding: list[int]  # that torch takes
    around: list[Scalar]  # as F.pad takes it

    @staticmethod
    def of(call: Call, x: Any) -> _Window:
        kernel = list(call.attr("kernel_shape"))
        spatial = len(kernel)
        stride, dilation = (list(call.attr(name, [1] * spatial)) for name in ("strides", "dilations"))
        before, after = _padding(call, x, kernel, stride, dilation, spatial)
        small = all(isinstance(p, int) and 2 * p <= k for p, k in zip(before, kernel, strict=True))
        if small and before == after:
            return _Window(kernel, stride, dilation, before, [])
        if call.attr("ceil_mode", 0):
            raise call.refuse("ceil_mode with pads that are wide, or differ before and after")
        return _Window(kernel, stride, dilation, [0] * spatial, _around(before, after))


@row("MaxPool", 8, 10, 11, 12, 22)
def max_pool(call: Call, x: Any) -> Any:
    call.refuse_outputs({1: "Indices"})
    window = _Window.of(call, x)
    if window.around:
        dtype = call.dtype(x)
        lowest = -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min
        x = F.pad(x, window.around, value=lowest)
    return POOLS[len(window.kernel)](
        x, window.kernel, window.stride, window.padding, window.dilation, bool(call.attr("ceil_mode", 0))
    )


@row("AveragePool", 7, 10, 11, 19, 22)
def average_pool(call: Call, x: Any) -> Any:
    """Of padding that is not counted, what a window covers of the image says how much it counts."""
    window = _Window.of(call, x)
    if any(d != 1 for d in window.dilation) or call.attr("ceil_mode", 0):
        raise call.refuse("dilations or ceil_mode")
    counted = bool(call.attr("count_include_pad", 0))

    def average(image: Any) -> Any:
        function = AVERAGES[len(window.kernel)]
        return function(image, window.kernel, window.stride, window.padding, count_include_pad=counted)

    if not window.around:
        return average(x)
    wide = average(F.pad(x, window.around))
    return wide if counted else wide / average(F.pad(torch.ones_like(x), window.around))


@row("GlobalAveragePool", 1, 22)
def global_average_pool(call: Call, x: Any) -> Any:
    return x.mean(dim=list(range(2, call.rank(x))), keepdim=True)


@row("GlobalMaxPool", 1, 22)
def global_max_pool(call: Call, x: Any) -> Any:
    return torch.amax(x, dim=list(range(2, call.rank(x))), keepdim=True)
