"""Picking and placing by index, sorting, and tensors made from numbers."""

from __future__ import annotations

import math
from operator import add, getitem
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.arithmetic import nonnegative, product
from graphclone.pytorch.operators.rows import Call, row
from graphclone.pytorch.values import Scalar, Symbol


@row("Gather", 1, 11, 13)
def gather(call: Call, x: Any, indices: Any) -> Any:
    """Indices of any shape take the place of the axis; negative ones count from the end.

    Along axis 0 of a matrix this is an embedding, as long as the indices cannot be negative.
    """
    axis = int(call.attr("axis", 0))
    if isinstance(indices, torch.Tensor) and indices.dim() == 0:
        return x.select(axis, int(indices))
    if axis == 0 and call.rank(x) == 2 and _never_negative(call, indices):
        return F.embedding(indices, x)
    return x[(slice(None),) * (axis % call.rank(x)) + (indices,)]


TRUTHS = frozenset({torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge})
KEEPS_SIGN = frozenset(
    {
        torch.gather,
        torch.cumsum,
        "reshape",
        "unsqueeze",
        "squeeze",
        "permute",
        "expand",
        "to",
        torch.add,
        torch.mul,
        getitem,
    }
)


FIRST = (getitem, torch.gather, torch.cumsum)


def _never_negative(call: Call, indices: Any) -> bool:
    """Inputs of the graph that pick rows are ids of a vocabulary, and counting starts at 0."""
    if isinstance(indices, torch.Tensor):
        return bool((indices >= 0).all())
    return _counts(indices.node, call.recorder.root)


def _counts(node: fx.Node, root: torch.nn.Module) -> bool:
    if node.op == "placeholder" or node.meta.get("nonnegative"):
        return True
    if node.op == "get_attr":
        table = root._buffers.get(str(node.target))
        return table is not None and bool((table >= 0).all())
    if node.target is torch.arange:
        return bool(node.args[0] == 0)
    if node.target in TRUTHS:
        return True
    operands = node.args[:1] if node.target in FIRST or node.op == "call_method" else node.args
    return node.target in KEEPS_SIGN and all(
        _counts(a, root) if isinstance(a, fx.Node) else isinstance(a, int) and a >= 0 for a in operands
    )


@row("GatherElements", 11, 13)
def gather_elements(call: Call, x: Any, indices: Any) -> Any:
    axis = int(call.attr("axis", 0))
    return torch.gather(x, axis, _from_start(indices, call.size(x, axis)))


def _from_start(indices: Any, size: Scalar) -> Any:
    """torch.gather and scatter take no negative index."""
    return torch.where(indices < 0, indices + size, indices)


@row("GatherND", 11, 12, 13)
def gather_nd(call: Call, x: Any, indices: Any) -> Any:
    """The last axis of ``indices`` holds a position in the leading axes that follow the batch axes."""
    batch, depth = int(call.attr("batch_dims", 0)), _depth(call, indices)
    positions = [indices.select(-1, i) for i in range(depth)]
    if not batch:
        return x[tuple(positions)]
    rank = call.rank(indices) - 1
    grids = []
    for axis in range(batch):
        count = call.recorder.call(torch.arange, call.size(x, axis), device=call.recorder.device)
        grids.append(count.reshape([-1 if i == axis else 1 for i in range(rank)]))
    return x[tuple(grids + positions)]


def _depth(call: Call, indices: Any) -> int:
    """The size of the last axis: part of the operator's meaning, so it must be fixed."""
    if isinstance(indices, torch.Tensor):
        return int(indices.shape[-1])
    depth = call.size(indices, call.rank(indices) - 1)
    declared = (call.node.inputs[1].shape or [None])[-1]
    known = next((d for d in (depth, declared) if isinstance(d, int)), None)
    if known is None:
        raise call.refuse("the last axis of the indices must have a fixed size")
    return known


@row("ScatterND", 11, 13, 16, 18)
def scatter_nd(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    """Replaces, or accumulates with reduction (onnx ScatterND-18)."""
    reduction, depth = call.attr("reduction", "none"), _depth(call, indices)
    positions = [indices.select(-1, i) for i in range(depth)]
    updates = _typed(updates, x)
    if reduction in ("none", "add"):
        return torch.index_put(x, tuple(positions), updates, accumulate=reduction == "add")
    sizes = call.sizes(x)
    from_start = [_from_start(position, size) for position, size in zip(positions, sizes, strict=False)]
    place = from_start[0]  # in x as a matrix: a row for each position, and in it all that lies there
    for position, size in zip(from_start[1:], sizes[1:], strict=False):
        place = place * size + position
    width = product(call.recorder, sizes[depth:])
    rows = x.reshape([product(call.recorder, sizes[:depth]), width])
    places = place.reshape([-1, 1]).expand(-1, width)
    return torch.scatter_reduce(rows, 0, places, updates.reshape([-1, width]), SCATTER[reduction]).reshape(sizes)


def _typed(updates: Any, x: Any) -> Any:
    """In the type of what they replace, which autocast may have made another."""
    return updates.type_as(x) if isinstance(updates, Symbol) or isinstance(x, Symbol) else updates


SCATTER = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@row("ScatterElements", 11, 13, 16, 18)
def scatter_elements(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    axis, reduction = int(call.attr("axis", 0)), call.attr("reduction", "none")
    indices, updates = _from_start(indices, call.size(x, axis)), _typed(updates, x)
    if reduction == "none":
        return torch.scatter(x, axis, indices, updates)
    return torch.scatter_reduce(x, axis, indices, updates, SCATTER[reduction])


@row("NonZero", 9, 13)
def non_zero(call: Call, x: Any) -> Any:
    return torch.nonzero(x).t()


@row("TopK", 10, 11, 24, numbers=(1,))
def top_k(call: Call, x: Any, k: list[Scalar]) -> Any:
    found = torch.topk(x, k[0], int(call.attr("axis", -1)), bool(call.attr("largest", 1)), bool(call.attr("sorted", 1)))
    return found[0], found[1]


def _arg(call: Call, x: Any, function: Any) -> Any:
    axis, keep = int(call.attr("axis", 0)), bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return function(x, dim=axis, keepdim=keep)
    return call.size(x, axis) - 1 - function(torch.flip(x, [axis]), dim=axis, keepdim=keep)


@row("ArgMax", 1, 11, 12, 13)
def arg_max(call: Call, x: Any) -> Any:
    return _arg(call, x, torch.argmax)


@row("ArgMin", 1, 11, 12, 13)
def arg_min(call: Call, x: Any) -> Any:
    return _arg(call, x, torch.argmin)


@row("CumSum", 11, 14, numbers=(1,))
def cum_sum(call: Call, x: Any, axis: list[Scalar]) -> Any:
    where = (call.ints(axis, "axis") or [0])[0]
    turned = torch.flip(x, [where]) if call.attr("reverse", 0) else x
    if call.attr("exclusive", 0):  # a 0 in front and the last one left out
        turned = F.pad(turned, [0, 0] * (call.rank(x) - 1 - where % call.rank(x)) + [1, -1])
    total = torch.cumsum(turned, where, dtype=call.dtype(x))
    return torch.flip(total, [where]) if call.attr("reverse", 0) else total


@row("OneHot", 9, 11, numbers=(1,))
def one_hot(call: Call, indices: Any, depth: list[Scalar], values: Any) -> Any:
    """values = [off, on]; an index outside [-depth, depth) gives a row of off."""
    axis, classes = int(call.attr("axis", -1)), depth[0]
    wanted = torch.where(indices < 0, indices + classes, indices).unsqueeze(axis)
    rank = call.rank(indices) + 1
    shape = [1] * rank
    shape[axis] = -1
    each = call.recorder.call(torch.arange, classes, device=call.recorder.device).reshape(shape)
    return torch.where(wanted == each, values[1], values[0])


@row("Range", 11, numbers=(0, 1, 2))
def range_(call: Call, start: list[Scalar], limit: list[Scalar], delta: list[Scalar]) -> Any:
    """The element type is that of the inputs. A limit that is never reached gives nothing (onnx Range-11)."""
    dtype = call.dtype(call.inputs[0])
    first, last, step = start[0], limit[0], delta[0]
    if isinstance(step, Symbol):
        return call.recorder.call(count, first, last, step, call.recorder.device).to(dtype)
    if not _reaches(first, last, step):
        last = call.recorder.call(torch.sym_max if step > 0 else torch.sym_min, last, first)
    if isinstance(first, Symbol) or isinstance(last, Symbol):
        return call.recorder.call(torch.arange, first, last, step, dtype=dtype, device=call.recorder.device)
    return torch.arange(first, last, step, dtype=dtype)


def _reaches(first: Scalar, last: Scalar, step: Scalar) -> bool:
    """Whether counting up is proved to start no higher than it ends: at 0, or where a size is added to the start."""
    if step < 0:
        return False
    if not isinstance(first, Symbol):
        return first <= 0 and nonnegative(last) if isinstance(last, Symbol) else first <= last
    added = isinstance(last, Symbol) and last.node.target is add
    return (
        added
        and first.node in last.node.args
        and all(
            not isinstance(a, fx.Node) or bool(a.meta.get("nonnegative")) for a in last.node.args if a is not first.node
        )
    )


def count(first: float, last: float, step: float, device: torch.device) -> torch.Tensor:
    """``first``, ``first + step`` and so on, up to ``last``, which is not reached."""
    return torch.arange(max(math.ceil((last - first) / step), 0), device=device) * step + first


@row("ConstantOfShape", 9, 20, 21, 23, 24, 25, numbers=(0,))
def constant_of_shape(call: Call, shape: list[Scalar]) -> Any:
    value = call.attr("value")
    single = np.zeros(1, np.float32) if value is None else value.values.reshape(-1)
    held, dtype = single[0].item(), call.torch_type(onnx.helper.np_dtype_to_tensor_dtype(single.dtype))
    if any(isinstance(n, Symbol) for n in shape):
        return call.recorder.call(torch.full, shape, held, dtype=dtype, device=call.recorder.device)
    return torch.full([int(n) for n in shape], held, dtype=dtype)


@row("EyeLike", 9, 22)
def eye_like(call: Call, x: Any) -> Any:
    dtype = call.torch_type(int(call.attr("dtype"))) if "dtype" in call.node.attrs else call.dtype(x)
    ones = torch.ones_like(x, dtype=dtype)
    k = int(call.attr("k", 0))
    return torch.tril(torch.triu(ones, k), k)


@row("Compress", 9, 11)
def compress(call: Call, x: Any, condition: Any) -> Any:
    """The condition may be shorter than the axis: what it does not name is dropped."""
    axis = call.attr("axis")
    kept = torch.nonzero(condition).reshape(-1)
    return torch.index_select(x.reshape(-1) if axis is None else x, axis or 0, kept)
