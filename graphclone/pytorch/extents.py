"""Traces each size of a computed value to where it comes from: an input, or a weight's literal.

The size of ``x.unsqueeze(1)`` along axis 0 is the size of x along axis 0, and that of ``embedding(ids, weight)`` along
its last axis is a number. Following this back makes the shape arithmetic of a module that of its inputs: equal sizes
become one, and sizes fixed by weights become literals.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

Extent = Any  # int, a scalar fx.Node, (fx.Node, axis), or None where nothing is known
Rule = Callable[[fx.Node, int, int], Extent]  # node, axis (not negative), rank of the result


def extent(node: fx.Node, axis: int) -> Extent:
    """An int, a node that holds the number, or the (node, axis) furthest back whose size it is."""
    known = node.meta.setdefault("extents", {})  # residual Adds ask both sides: without this, exponential in depth
    if axis not in known:
        known[axis] = _found(node, axis)
    return known[axis]


def _found(node: fx.Node, axis: int) -> Extent:
    example = node.meta.get("example")
    if not isinstance(example, torch.Tensor):
        return node, axis
    if node.op == "placeholder":
        declared = node.meta["fixed"][axis]  # a number, or the first input that declares a size of this name
        return (node, axis) if declared is None else declared
    if node.op == "get_attr":
        return int(example.shape[axis])
    rule = RULES.get(node.target)
    found = rule(node, axis, example.dim()) if rule is not None else None
    if isinstance(found, tuple):
        return extent(*found)
    return (node, axis) if found is None else _origin(found)


def _rank(value: Any) -> int | None:
    example = value.meta.get("example") if isinstance(value, fx.Node) else None
    return example.dim() if isinstance(example, torch.Tensor) else None


def same(node: fx.Node, axis: int, rank: int) -> Extent:
    """The result has the shape of the first operand."""
    return node.args[0], axis


def _permute(node: fx.Node, axis: int, rank: int) -> Extent:
    return node.args[0], node.args[1][axis] % rank  # type: ignore[index, operator]


def _transpose(node: fx.Node, axis: int, rank: int) -> Extent:
    one, other = (int(a) % rank for a in (node.args[1:] or (0, 1)))  # type: ignore[arg-type]
    return node.args[0], {one: other, other: one}.get(axis, axis)


def _unsqueeze(node: fx.Node, axis: int, rank: int) -> Extent:
    new = int(node.args[1]) % rank  # type: ignore[arg-type]
    return 1 if axis == new else (node.args[0], axis - (axis > new))


def _reshape(node: fx.Node, axis: int, rank: int) -> Extent:
    target: Any = node.args[1]
    return _rest(node.args[0], target) if target[axis] == -1 else target[axis]


def _rest(source: Any, target: list[Any]) -> Extent:
    """What -1 stands for, where all that is not a number cancels."""
    had = [extent(source, axis) for axis in range(_rank(source) or 0)]
    for size in (s for s in target if not isinstance(s, int)):
        if _origin(size) not in had:
            return None
        had.remove(_origin(size))
    kept = math.prod(s for s in target if isinstance(s, int) and s > 0)
    if not had or kept == 0 or not all(isinstance(s, int) for s in had):
        return None
    return math.prod(had) // kept


def _origin(size: Any) -> Extent:
    """``x.size(1)`` as (x, 1), so that equal sizes compare equal."""
    asked = isinstance(size, fx.Node) and size.op == "call_method" and size.target == "size"
    return (size.args[0], size.args[1]) if asked else size


def _expand(node: fx.Node, axis: int, rank: int) -> Extent:
    size = node.args[1][axis]  # type: ignore[index]
    lead = rank - (_rank(node.args[0]) or 0)
    return (node.args[0], axis - lead) if size == -1 and axis >= lead else None if size == -1 else size


def _matmul(node: fx.Node, axis: int, rank: int) -> Extent:
    a, b = node.args[0], node.args[1]
    if (_rank(a) or 0) < 2 or (_rank(b) or 0) < 2:
        return None
    if axis >= rank - 2:
        return (a, (_rank(a) or 0) - 2) if axis == rank - 2 else (b, (_rank(b) or 0) - 1)
    return _broadcast(node, axis, rank)


def _selected(node: fx.Node, axis: int, rank: int) -> Extent:
    gone = int(node.args[1]) % (rank + 1)  # type: ignore[arg-type]
    return node.args[0], axis + (axis >= gone)


def _linear(node: fx.Node, axis: int, rank: int) -> Extent:
    weight: Any = node.args[1]
    return (weight, 0) if axis == rank - 1 else (node.args[0], axis)


def _addmm(node: fx.Node, axis: int, rank: int) -> Extent:
    return node.args[1 + axis], axis


def _attended(node: fx.Node, axis: int, rank: int) -> Extent:
    """Queries, but as wide as the values."""
    return (node.args[2], axis) if axis == rank - 1 else (node.args[0], axis)


def _picked(node: fx.Node, axis: int, rank: int) -> Extent:
    """A slice, or one of the pieces of a split."""
    source: Any = node.args[0]
    if _rank(source) is None:
        return _piece(source, node.args[1], axis, rank) if source.target is torch.split else None
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if rank != _rank(source) or not all(isinstance(i, slice) for i in index):
        return None
    bounds: Any = index[axis] if axis < len(index) else slice(None)
    if bounds == slice(None):
        return source, axis
    size = extent(source, axis)
    known = all(n is None or isinstance(n, int) for n in (bounds.start, bounds.stop, bounds.step))
    return len(range(*bounds.indices(size))) if known and isinstance(size, int) else None


def _piece(split: fx.Node, which: Any, axis: int, rank: int) -> Extent:
    source, sizes = split.args[:2]
    along: Any = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    if axis != along % rank:
        return source, axis
    return sizes[which] if isinstance(sizes, (list, tuple)) else None


def _embedding(node: fx.Node, axis: int, rank: int) -> Extent:
    return (node.args[1], 1) if axis == rank - 1 else (node.args[0], axis)


def _convolved(node: fx.Node, axis: int, rank: int) -> Extent:
    return (node.args[0], 0) if axis == 0 else (node.args[1], 0) if axis == 1 else None


def _over_space(node: fx.Node, axis: int, rank: int) -> Extent:
    """Batch and channels stay."""
    return (node.args[0], axis) if axis < 2 else None


def _padded(node: fx.Node, axis: int, rank: int) -> Extent:
    around: Any = node.args[1]
    return (node.args[0], axis) if axis < rank - len(around) // 2 else None


def _broadcast(node: fx.Node, axis: int, rank: int) -> Extent:
    """Both sides agree, or one does not reach this axis."""
    sides = [(a, axis - rank + (_rank(a) or 0)) for a in node.args if _rank(a)]
    reaching = [extent(a, at) for a, at in sides if at >= 0]  # type: ignore[arg-type]
    wide = [e for e in reaching if not (isinstance(e, int) and e == 1)]
    if any(_rank(a) is None for a in node.args if isinstance(a, fx.Node) and _is_tensor(a)) or not reaching:
        return None
    return reaching[0] if not wide else wide[0] if all(e == wide[0] for e in wide) else None


def _reduced(node: fx.Node, axis: int, rank: int) -> Extent:
    """Kept axes keep their size."""
    dims = node.kwargs.get("dim")
    if not node.kwargs.get("keepdim") or not isinstance(dims, (list, tuple)):
        return None
    return 1 if axis in {int(d) % rank for d in dims} else (node.args[0], axis)


def _cat(node: fx.Node, axis: int, rank: int) -> Extent:
    pieces: Any = node.args[0]
    if axis != (node.args[1] if len(node.args) > 1 else 0) % rank:  # type: ignore[operator]
        return pieces[0], axis
    lengths = [extent(piece, axis) for piece in pieces]
    return sum(lengths) if all(isinstance(n, int) for n in lengths) else None


def _arange(node: fx.Node, axis: int, rank: int) -> Extent:
    bounds = node.args
    return bounds[1] if len(bounds) == 3 and bounds[0] == 0 and bounds[2] == 1 else None


def _is_tensor(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("example"), (int, float, bool))


RULES: dict[Any, Rule] = {
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "unsqueeze": _unsqueeze,
    "reshape": _reshape,
    "expand": _expand,
    "select": _selected,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    torch.addmm: _addmm,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attended,
    F.embedding: _embedding,
    **dict.fromkeys(("to", "contiguous"), same),
    **dict.fromkeys((F.layer_norm, F.rms_norm, F.gelu, F.silu, torch.softmax, torch.neg, torch.cos, torch.sin), same),
    **dict.fromkeys((torch.tanh, torch.sigmoid, torch.erf, torch.relu, torch.sqrt, torch.isnan), same),
    **dict.fromkeys((torch.reciprocal, torch.rsqrt, torch.exp, torch.abs, torch.square, torch.logical_not), same),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolved),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), _over_space),
    **dict.fromkeys((torch.group_norm, F.batch_norm, F.leaky_relu, F.hardswish, F.elu, torch.clamp), same),
    F.interpolate: _over_space,
    F.pad: _padded,
    torch.arange: _arange,
    operator.getitem: _picked,
    torch.cat: _cat,
    **dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin), _reduced),
    **dict.fromkeys((torch.add, torch.sub, torch.mul, torch.pow, operator.truediv, torch.where), _broadcast),
    **dict.fromkeys(
        (torch.logical_and, torch.logical_or, torch.le, torch.lt, torch.ge, torch.gt, torch.eq), _broadcast
    ),
}
