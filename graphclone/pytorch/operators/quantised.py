"""Integers that stand for numbers (onnx DequantizeLinear-23, DynamicQuantizeLinear-11, MatMulInteger-10).

A weight of integers is a buffer of integers, and its scale a parameter. What is quantised on the way is rounded as ONNX
Runtime rounds it, and gradients pass straight through the rounding (arXiv 1308.3432): where integers are read as
numbers again, the rounded numbers are read, of which the integers are a cast. A scale of the file learns with them
(arXiv 1902.08153); those that DynamicQuantizeLinear finds are not followed.
"""

from __future__ import annotations

from typing import Any

import torch

from graphclone.pytorch.operators.rows import CONTRIB, Call, row
from graphclone.pytorch.values import Symbol

WHOLE = "whole"  # meta of a cast to integers: the whole numbers it was made from
VERSIONS = (10, 13, 19, 21, 23, 24, 25)
BYTE = torch.iinfo(torch.uint8)


def as_numbers(call: Call, integers: Any, dtype: torch.dtype) -> Any:
    """Integers as numbers, through which gradients pass where they were numbers before."""
    numbers = integers.node.meta.get(WHOLE) if isinstance(integers, Symbol) else None
    numbers = integers if numbers is None else call.recorder.proxy(numbers)
    return numbers if call.dtype(numbers) == dtype else numbers.to(dtype)


def as_integers(numbers: Any, dtype: torch.dtype) -> Any:
    """Whole numbers as integers, which remember them."""
    integers = numbers.to(dtype)
    if isinstance(integers, Symbol):
        integers.node.meta[WHOLE] = numbers.node
    return integers


def _rounded(x: Any) -> Any:
    """Halves to even, exactly; its gradient is that of x."""
    return x + (torch.round(x) - x).detach()


def _spread(call: Call, setting: Any, x: Any) -> Any:
    """A scale or zero point beside x: one for all, one a position of the axis, or one a block of it."""
    rank, of = call.rank(x), call.rank(setting)
    axis = int(call.attr("axis", 1)) % max(rank, 1)
    if of <= 1:
        return setting.reshape([-1, *[1] * (rank - 1 - axis)]) if of == 1 and axis < rank - 1 else setting
    block = int(call.attr("block_size", 0))
    if not block:
        raise call.refuse("a scale of several axes without block_size")
    return setting.repeat_interleave(block, dim=axis).narrow(axis, 0, call.size(x, axis))


@row("DequantizeLinear", *VERSIONS, gains=(1,))
@row("DequantizeLinear", 1, domain=CONTRIB, gains=(1,))
def dequantize_linear(call: Call, x: Any, scale: Any, zero_point: Any = None) -> Any:
    asked = int(call.attr("output_dtype", 0))
    wanted = call.torch_type(asked) if asked else call.dtype(scale)
    wide = torch.promote_types(wanted, call.dtype(scale))
    numbers = as_numbers(call, x, wide)
    if zero_point is not None:
        numbers = numbers - _spread(call, as_numbers(call, zero_point, wide), x)
    result = numbers * _spread(call, scale if call.dtype(scale) == wide else scale.to(wide), x)
    return result if wanted == wide else result.to(wanted)


@row("QuantizeLinear", *VERSIONS, gains=(1,))
@row("QuantizeLinear", 1, domain=CONTRIB, gains=(1,))
def quantize_linear(call: Call, x: Any, scale: Any, zero_point: Any = None) -> Any:
    if zero_point is not None:
        dtype = call.dtype(zero_point)
    else:
        dtype = call.torch_type(int(call.attr("output_dtype", 0) or 2))
    if dtype.is_floating_point:
        raise call.refuse(f"quantising to {dtype}")
    numbers = _rounded(x / _spread(call, scale, x))
    if zero_point is not None:
        numbers = numbers + _spread(call, as_numbers(call, zero_point, call.dtype(x)), x)
    held = torch.iinfo(dtype)
    return as_integers(torch.clamp(numbers, held.min, held.max), dtype)


@row("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(call: Call, x: Any) -> Any:
    """To bytes, from the smallest number or 0 to the largest or 0; 0 is a byte exactly."""
    seen = x.detach()
    low, high = torch.clamp(seen.amin(), max=0), torch.clamp(seen.amax(), min=0)
    scale = torch.where(high == low, 1.0, (high - low) / BYTE.max)
    zero_point = torch.round(torch.clamp(-low / scale, BYTE.min, BYTE.max))
    numbers = torch.clamp(_rounded(x / scale) + zero_point, BYTE.min, BYTE.max)
    return as_integers(numbers, torch.uint8), scale, as_integers(zero_point, torch.uint8)


@row("MatMulInteger", 10)
def matmul_integer(call: Call, a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> Any:
    """In float32, whole up to 2^24; beyond it the cast to float32 that follows would round as well."""
    left, right = (as_numbers(call, x, torch.float32) for x in (a, b))
    if a_zero_point is not None:
        zero = as_numbers(call, a_zero_point, torch.float32)
        left = left - (zero.unsqueeze(-1) if call.rank(zero) == 1 and call.rank(left) > 1 else zero)
    if b_zero_point is not None:
        right = right - as_numbers(call, b_zero_point, torch.float32)
    return as_integers(torch.matmul(left, right), torch.int32)
