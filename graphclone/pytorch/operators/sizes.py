"""How operators act on Sizes: the arithmetic of shapes, done on numbers when the module is built or called.

Data movement is NumPy's own on an array of numbers. Where a number is only known at run time, arithmetic on it is
recorded, and what can be proved about sizes (never negative) is used to simplify.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch

from graphclone.pytorch.arithmetic import add, multiply, nonnegative, product, proved
from graphclone.pytorch.operators.rows import Call, on_sizes
from graphclone.pytorch.recorder import Recorder
from graphclone.pytorch.values import Scalar, Sizes, Symbol


def _each(call: Call, function: Callable[..., Scalar], dtype: torch.dtype, *inputs: Sizes) -> Sizes:
    """Apply element by element, broadcasting."""
    arrays = np.broadcast_arrays(*(s.elements for s in inputs))
    result = np.empty(arrays[0].shape, dtype=object)
    for index in np.ndindex(arrays[0].shape):
        result[index] = function(call.recorder, *(a[index] for a in arrays))
    return Sizes(result, dtype)


def _each_rounded(call: Call, function: Callable[..., Scalar], dtype: torch.dtype, *inputs: Sizes) -> Sizes:
    """As _each, of a function whose results the element type may not hold: Python computes in float64."""
    if not dtype.is_floating_point or dtype == torch.float64:
        return _each(call, function, dtype, *inputs)
    return _each(call, lambda r, *xs: _rounded(r, function(r, *xs), dtype), dtype, *inputs)


def _rounded(r: Recorder, a: Scalar, dtype: torch.dtype) -> Scalar:
    return proved(r.call(rounded, a, dtype=dtype), a)


def rounded(number: float, dtype: torch.dtype = torch.float32) -> float:
    """A number as the type holds it: 10 * 0.7 is 7 in float32, and just less in float64."""
    return float(torch.tensor(number, dtype=dtype).item())


def _subtract(r: Recorder, a: Scalar, b: Scalar) -> Scalar:
    return a if type(b) is int and b == 0 else r.call(operator.sub, a, b)


def _minimum(r: Recorder, *xs: Scalar) -> Scalar:
    return reduce(lambda a, b: proved(r.call(torch.sym_min, a, b), a, b), xs)


def _maximum(r: Recorder, *xs: Scalar) -> Scalar:
    return reduce(lambda a, b: proved(r.call(torch.sym_max, a, b), a, b), xs)


def _quotient(r: Recorder, a: Scalar, b: Scalar) -> Scalar:
    """Integer division truncates towards zero."""
    if type(b) is int and b == 1:
        return a
    if nonnegative(a) and nonnegative(b):
        return proved(r.call(operator.floordiv, a, b))
    return r.call(math.trunc, r.call(operator.truediv, a, b))


def _equal(r: Recorder, a: Scalar, b: Scalar) -> Scalar:
    """A size is never -1, which exporters test for."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Symbol) and nonnegative(one) and not isinstance(other, Symbol) and other < 0:
            return False
    return r.call(operator.eq, a, b)


def _choose(r: Recorder, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    if not isinstance(condition, Symbol):
        return a if condition else b
    chosen = r.call(torch.sym_ite, condition, a, b)
    chosen.node.meta["nonnegative"] = nonnegative(a) and nonnegative(b)
    return chosen


def _compare(function: Callable[[Any, Any], Any]) -> Callable[[Recorder, Scalar, Scalar], Scalar]:
    return lambda r, a, b: r.call(function, a, b)


ARITHMETIC: tuple[tuple[str, tuple[int, ...], Callable[..., Scalar]], ...] = (
    ("Add", (7, 13, 14), add),
    ("Sub", (7, 13, 14), _subtract),
    ("Mul", (7, 13, 14), multiply),
    ("Mod", (10, 13), _compare(operator.mod)),
    ("Min", (8, 12, 13), _minimum),
    ("Max", (8, 12, 13), _maximum),
)
COMPARISON: tuple[tuple[str, tuple[int, ...], Callable[..., Scalar]], ...] = (
    ("Equal", (7, 11, 13, 19), _equal),
    ("Greater", (7, 9, 13), _compare(operator.gt)),
    ("GreaterOrEqual", (12, 16), _compare(operator.ge)),
    ("Less", (7, 9, 13), _compare(operator.lt)),
    ("LessOrEqual", (12, 16), _compare(operator.le)),
)
UNARY: tuple[tuple[str, tuple[int, ...], Callable[[Any], Any]], ...] = (
    ("Floor", (6, 13), math.floor),
    ("Ceil", (6, 13), math.ceil),
    ("Sqrt", (6, 13), math.sqrt),
)
EXACT = frozenset({"Mod", "Min", "Max", "Floor", "Ceil"})  # give what the type of their operands holds


def _register_tables() -> None:
    for op, since, function in ARITHMETIC:
        each = _each if op in EXACT else _each_rounded
        on_sizes(op, *since)(lambda call, *xs, f=function, each=each: each(call, f, xs[0].dtype, *xs))
    for op, since, function in COMPARISON:
        on_sizes(op, *since)(lambda call, a, b, f=function: _each(call, f, torch.bool, a, b))
    for op, since, unary in UNARY:
        each = _each if op in EXACT else _each_rounded
        on_sizes(op, *since)(lambda call, x, f=unary, each=each: each(call, _keeping(f), x.dtype, x))


def _keeping(function: Callable[[Any], Any]) -> Callable[[Recorder, Scalar], Scalar]:
    """A function that gives no negative number of what is none."""
    return lambda r, a: proved(r.call(function, a), a)


_register_tables()


@on_sizes("Div", 7)
@on_sizes("Div", 13)
@on_sizes("Div", 14)
def divide(call: Call, a: Sizes, b: Sizes) -> Sizes:
    if a.dtype.is_floating_point:
        return _each_rounded(call, lambda r, x, y: proved(r.call(operator.truediv, x, y), x, y), a.dtype, a, b)
    return _each(call, _quotient, a.dtype, a, b)


@on_sizes("Where", 9, 16)
def where(call: Call, condition: Sizes, a: Sizes, b: Sizes) -> Sizes:
    return _each(call, _choose, a.dtype, condition, a, b)


@on_sizes("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def cast(call: Call, x: Sizes) -> Any:
    wanted = call.torch_type(int(call.attr("to")))
    if wanted == torch.bool or (x.dtype.is_floating_point and not wanted.is_floating_point):
        convert: Any = bool if wanted == torch.bool else math.trunc
        return _each(call, _keeping(convert), wanted, x)
    if wanted.is_floating_point and x.dtype != wanted:
        each = _each if wanted == torch.float32 and not x.dtype.is_floating_point else _each_rounded  # below 2^24
        return each(call, _keeping(torch.sym_float), wanted, x)
    return Sizes(x.elements, wanted)


@on_sizes("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def identity(call: Call, x: Sizes) -> Sizes:
    return x


@on_sizes("Gather", 1, 11, 13)
def gather(call: Call, x: Sizes, indices: Sizes) -> Any:
    if not indices.known:
        return NotImplemented
    taken = np.take(x.elements, indices.elements.astype(np.int64), axis=int(call.attr("axis", 0)))
    return Sizes(np.asarray(taken, dtype=object), x.dtype)


@on_sizes("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(call: Call, x: Sizes) -> Sizes:
    return Sizes.of(list(x.elements.shape)[slice(call.attr("start", 0), call.attr("end"))])


@on_sizes("Size", 1, 13, 19, 21, 23, 24, 25)
def size(call: Call, x: Sizes) -> Sizes:
    return Sizes(np.array(x.elements.size, dtype=object), torch.int64)


@on_sizes("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(call: Call, x: Sizes) -> Sizes:
    return Sizes(x.elements.transpose(call.attr("perm")), x.dtype)


@on_sizes("Concat", 4, 11, 13)
def concat(call: Call, *xs: Sizes) -> Sizes:
    return Sizes(np.concatenate([x.elements for x in xs], axis=int(call.attr("axis"))), xs[0].dtype)


@on_sizes("Slice", 10, 11, 13)
def slice_(call: Call, x: Sizes, *bounds: Sizes | None) -> Any:
    if not all(b is None or b.known for b in bounds):
        return NotImplemented
    lists = [b.elements.tolist() if b is not None else [] for b in bounds]
    starts, ends, axes, steps = [*lists, [], []][:4]
    index = [slice(None)] * x.elements.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        stop = None if step < 0 and end < -x.elements.shape[axes[i] if axes else i] else end
        index[axes[i] if axes else i] = slice(start, stop, step)
    return Sizes(x.elements[tuple(index)], x.dtype)


def _axes(call: Call, axes: Sizes | None) -> list[int] | None:
    return call.axes(None if axes is None else list(axes.elements.reshape(-1)))


@on_sizes("Squeeze", 1, 11, 13, 21, 23, 24, 25)
def squeeze(call: Call, x: Sizes, axes: Sizes | None = None) -> Sizes:
    where = _axes(call, axes)
    return Sizes(np.squeeze(x.elements, tuple(where) if where is not None else None), x.dtype)


@on_sizes("Unsqueeze", 1, 11, 13, 21, 23, 24, 25)
def unsqueeze(call: Call, x: Sizes, axes: Sizes | None = None) -> Sizes:
    return Sizes(np.expand_dims(x.elements, tuple(_axes(call, axes) or [])), x.dtype)


@on_sizes("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(call: Call, x: Sizes, shape: Sizes) -> Any:
    wanted = list(shape.elements.reshape(-1))
    if not shape.known or 0 in wanted:
        return NotImplemented
    return Sizes(x.elements.reshape(wanted), x.dtype)


@on_sizes("ReduceProd", 1, 11, 13, 18)
def reduce_prod(call: Call, x: Sizes, axes: Sizes | None = None) -> Any:
    where = _axes(call, axes)
    if x.elements.ndim != 1 or (where is not None and where not in ([0], [-1])):
        return NotImplemented
    total = np.empty((1,) if call.attr("keepdims", 1) else (), dtype=object)
    total[...] = product(call.recorder, list(x.elements))
    return Sizes(total, x.dtype)
