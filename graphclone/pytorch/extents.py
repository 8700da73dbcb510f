"""Sizes without looking: where a size of a computed value comes from.

The size of ``x.unsqueeze(1)`` along axis 0 is the size of x along axis 0, and that of ``embedding(ids, weight)`` along
its last axis is a number. Following this back makes the shape arithmetic of a module that of its inputs: equal sizes
become one, and sizes fixed by weights become literals.
"""

from __future__ import annotations

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
    if node.op == "get_attr":
        return int(example.shape[axis])
    rule = RULES.get(node.target)
    found = rule(node, axis, example.dim()) if rule is not None else None
    if isinstance(found, tuple):
        return extent(*found)
    return (node, axis) if found is None else found


def _rank(value: Any) -> int | None:
    example = value.meta.get("example") if isinstance(value, fx.Node) else None
    return example.dim() if isinstance(example, torch.Tensor) else None


def _same(node: fx.Node, axis: int, rank: int) -> Extent:
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
    size = node.args[1][axis]  # type: ignore[index]
    return None if size == -1 else size


def _expand(node: fx.Node, axis: int, rank: int) -> Extent:
    size = node.args[1][axis]  # type: ignore[index]
    lead = rank - (_rank(node.args[0]) or 0)
    return (node.args[0], axis - lead) if size == -1 and axis >= lead else None if size == -1 else size


def _matmul(node: fx.Node, axis: int, rank: int) -> Extent:
    a, b = node.args[0], node.args[1]
    if axis == rank - 1:
        return (b, (_rank(b) or 0) - 1) if (_rank(b) or 0) > 1 and (_rank(a) or 0) > 1 else None
    return (a, axis) if _rank(a) == rank and (axis == rank - 2 or _rank(b) == 2) else None


def _embedding(node: fx.Node, axis: int, rank: int) -> Extent:
    return (node.args[1], 1) if axis == rank - 1 else (node.args[0], axis)


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
    torch.matmul: _matmul,
    F.embedding: _embedding,
    **dict.fromkeys(("to", "contiguous"), _same),
    **dict.fromkeys((F.layer_norm, F.rms_norm, F.gelu, F.silu, torch.softmax, torch.neg, torch.cos, torch.sin), _same),
    **dict.fromkeys((torch.tanh, torch.sigmoid, torch.erf, torch.relu, torch.sqrt, torch.isnan), _same),
    torch.arange: _arange,
    **dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin), _reduced),
    **dict.fromkeys((torch.add, torch.sub, torch.mul, torch.pow, operator.truediv, torch.where), _broadcast),
    **dict.fromkeys(
        (torch.logical_and, torch.logical_or, torch.le, torch.lt, torch.ge, torch.gt, torch.eq), _broadcast
    ),
}
