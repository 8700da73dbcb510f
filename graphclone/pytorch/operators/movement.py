"""Moving data: shapes change, values do not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.arithmetic import add, product
from graphclone.pytorch.operators.rows import Call, row
from graphclone.pytorch.values import Scalar, Sizes, Symbol, Value

LAST = 1 << 62  # exporters write "to the end" as a huge number


@row("Reshape", 5, 13, 14, 19, 21, 23, 24, 25, numbers=(1,))
def reshape(call: Call, x: Any, shape: list[Scalar]) -> Any:
    """0 copies the input's size unless allowzero (onnx Reshape-14)."""
    if not call.attr("allowzero", 0):
        shape = [call.size(x, i) if _is_zero(n) else n for i, n in enumerate(shape)]
    return x.reshape(shape)


def _is_zero(n: Scalar) -> bool:
    return not isinstance(n, Symbol) and n == 0


@row("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(call: Call, x: Any) -> Any:
    order = call.attr("perm")
    return x.permute(list(order) if order is not None else list(range(call.rank(x)))[::-1])


@row("Squeeze", 1, 11, 13, 21, 23, 24, 25, numbers=(1,))
def squeeze(call: Call, x: Any, axes: list[Scalar] | None = None) -> Any:
    where = call.axes(axes)
    return x.squeeze() if where is None else x.squeeze(tuple(where) if len(where) != 1 else where[0])


@row("Unsqueeze", 1, 11, 13, 21, 23, 24, 25, numbers=(1,))
def unsqueeze(call: Call, x: Any, axes: list[Scalar] | None = None) -> Any:
    where = call.axes(axes) or []
    rank = call.rank(x) + len(where) if len(where) > 1 else 0
    for axis in sorted(a + rank if a < 0 else a for a in where):
        x = x.unsqueeze(axis)
    return x


@row("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(call: Call, x: Any) -> Any:
    """To a matrix: sizes before the axis, sizes from it on."""
    axis = int(call.attr("axis", 1))
    sizes = call.sizes(x)
    axis = axis + len(sizes) if axis < 0 else axis
    rows, columns = product(call.recorder, sizes[:axis]), product(call.recorder, sizes[axis:])
    return x.reshape([rows, columns])


@row("Concat", 4, 11, 13)
def concat(call: Call, *xs: Any) -> Any:
    return xs[0] if len(xs) == 1 else torch.cat(xs, int(call.attr("axis")))


@row("Split", 2, 11, 13, 18, numbers=(1,))
def split(call: Call, x: Any, lengths: list[Scalar] | None = None) -> Any:
    """Equal parts unless lengths are given; a last smaller part where they do not divide (onnx Split-18)."""
    axis, parts = int(call.attr("axis", 0)), len(call.node.outputs)
    given = call.attr("split", lengths)
    if given is None:
        whole = call.size(x, axis)
        count = call.recorder.call(_parts, whole, parts)
        pieces = torch.split(x, count, axis)
    else:
        pieces = torch.split(x, list(given), axis)
    return tuple(pieces[i] for i in range(parts))


def _parts(size: int, parts: int) -> int:
    return -(-size // parts)


@row("Slice", 1, numbers=())
def slice_by_attribute(call: Call, x: Any) -> Any:
    starts, ends = call.attr("starts"), call.attr("ends")
    return _sliced(call, x, starts, ends, call.attr("axes", range(len(starts))), [1] * len(starts))


@row("Slice", 10, 11, 13, numbers=(1, 2, 3, 4))
def slice_(call: Call, x: Any, starts: list[Scalar], ends: list[Scalar], axes: Any = None, steps: Any = None) -> Any:
    where = call.ints(axes, "axes") if axes is not None else range(len(starts))
    return _sliced(call, x, starts, ends, where, call.ints(steps, "steps") or [1] * len(starts))


def _sliced(call: Call, x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    """Python's slices have ONNX's clamping; only a negative step needs a flip."""
    rank, inner = call.rank(x), 0
    index: list[Any] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            bounds = _start(start), _end(end), step if step != 1 else None
            if any(bound is not None for bound in bounds):
                index[axis], inner = slice(*bounds), max(inner, axis % rank + 1)
        else:
            size = call.size(x, axis)
            positions = call.recorder.call(_positions, start, end, step, size)
            device = torch.device("cpu") if isinstance(x, torch.Tensor) else call.recorder.device  # a table stays one
            x = torch.index_select(x, axis, call.recorder.call(torch.tensor, positions, device=device))
    return x[tuple(index[:inner])] if inner else x


def _start(start: Scalar) -> Scalar | None:
    return None if _is_zero(start) else start


def _end(end: Scalar) -> Scalar | None:
    return None if not isinstance(end, Symbol) and end > LAST // (1 << 31) else end


def _positions(start: int, end: int, step: int, size: int) -> list[int]:
    return list(range(*slice(start, None if end < -size else end, step).indices(size)))


@row("Expand", 8, 13, numbers=(1,))
def expand(call: Call, x: Any, shape: list[Scalar]) -> Any:
    """Two-way broadcasting: a 1 in ``shape`` keeps the input's size (onnx Expand-13), which torch writes as -1."""
    if all(isinstance(n, int) for n in shape) and call.rank(x) <= len(shape):
        lead = len(shape) - call.rank(x)
        return x.expand([-1 if n == 1 and i >= lead else n for i, n in enumerate(shape)])
    mine = call.sizes(x)
    if len(mine) > len(shape):
        shape = [1] * (len(mine) - len(shape)) + list(shape)
    mine = [None] * (len(shape) - len(mine)) + mine
    return x.expand([_broadcast(call, m, n) for m, n in zip(mine, shape, strict=True)])


def _broadcast(call: Call, mine: Scalar | None, wanted: Scalar) -> Scalar:
    if mine is None or (isinstance(mine, int) and mine == 1):
        return wanted
    if isinstance(wanted, int):
        return -1 if wanted == 1 else wanted
    if wanted is mine or getattr(wanted, "node", 0) is getattr(mine, "node", 1):
        return -1
    return call.recorder.call(torch.sym_max, mine, wanted)


@row("Tile", 6, 13, numbers=(1,))
def tile(call: Call, x: Any, repeats: list[Scalar]) -> Any:
    return x.repeat(repeats)


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@row("Pad", 2)
def pad_by_attribute(call: Call, x: Any) -> Any:
    return _padded(call, x, list(call.attr("pads")), call.attr("value", 0.0), None)


def _pads(call: Call) -> int | None:
    """Before and after each axis of the data, or each of those named."""
    axes = call.inputs[3] if len(call.inputs) > 3 else None
    if axes is None:
        return 2 * call.rank(call.inputs[0])
    return None if isinstance(axes, Symbol) else 2 * len(call.recorder.numbers(axes))


@row("Pad", 11, 13, 18, 19, 21, 23, 24, 25, numbers=(1, 2, 3), lengths={1: _pads})
def pad(call: Call, x: Any, pads: list[Scalar], value: Any = None, axes: list[Scalar] | None = None) -> Any:
    return _padded(call, x, pads, value[0] if value else 0.0, call.ints(axes, "axes"))


def _padded(call: Call, x: Any, pads: list[Scalar], value: Scalar, axes: list[int] | None) -> Any:
    """torch counts axes from the last and wants (before, after) pairs; its other modes want exactly the inner axes."""
    rank, mode = call.rank(x), call.attr("mode", "constant")
    where = [a % rank for a in axes] if axes is not None else list(range(rank))
    before = dict(zip(where, pads[: len(where)], strict=True))
    after = dict(zip(where, pads[len(where) :], strict=True))
    pairs = [(before.get(a, 0), after.get(a, 0)) for a in reversed(range(rank))]
    if mode == "constant":
        return F.pad(x, [n for pair in pairs for n in pair], value=value)
    inner = max((i + 1 for i, pair in enumerate(pairs) if any(not _is_zero(n) for n in pair)), default=0)
    if mode not in PAD_MODES or inner > 3:
        raise call.refuse(f"padding mode {mode!r} over {inner} axes")
    folded = x.reshape([1, -1, *call.sizes(x)[rank - inner :]]) if inner else x
    padded = F.pad(folded, [n for pair in pairs[:inner] for n in pair], mode=PAD_MODES[mode]) if inner else x
    sizes = call.sizes(x)
    grown = [add(call.recorder, add(call.recorder, sizes[rank - 1 - i], p), q) for i, (p, q) in enumerate(pairs)]
    return padded.reshape(grown[::-1])


@row("DepthToSpace", 1, 11, 13)
def depth_to_space(call: Call, x: Any) -> Any:
    """Two channel orders: DCR (default) and CRD (onnx DepthToSpace-13)."""
    block, (n, c, h, w) = int(call.attr("blocksize")), call.sizes(x)
    channels = call.recorder.call(_parts, c, block * block)
    if call.attr("mode", "DCR") == "DCR":
        split_up = x.reshape([n, block, block, channels, h, w]).permute([0, 3, 4, 1, 5, 2])
    else:
        split_up = x.reshape([n, channels, block, block, h, w]).permute([0, 1, 4, 2, 5, 3])
    return split_up.reshape([n, channels, h * block, w * block])


@row("SpaceToDepth", 1, 13)
def space_to_depth(call: Call, x: Any) -> Any:
    block, (n, c, h, w) = int(call.attr("blocksize")), call.sizes(x)
    high, wide = call.recorder.call(_parts, h, block), call.recorder.call(_parts, w, block)
    split_up = x.reshape([n, c, high, block, wide, block]).permute([0, 3, 5, 1, 2, 4])
    return split_up.reshape([n, c * block * block, high, wide])


@row("Trilu", 14, numbers=(1,))
def trilu(call: Call, x: Any, k: list[Scalar] | None = None) -> Any:
    diagonal = k[0] if k else 0
    return torch.triu(x, diagonal) if call.attr("upper", 1) else torch.tril(x, diagonal)


@row("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(call: Call, x: Value) -> Sizes:
    """start and end count axes like a slice (onnx Shape-15)."""
    axes = range(call.rank(x))[slice(call.attr("start", 0), call.attr("end"))]
    return Sizes.of([call.size(x, a) for a in axes])


@row("Size", 1, 13, 19, 21, 23, 24, 25)
def size(call: Call, x: Value) -> Sizes:
    total = Sizes.of([product(call.recorder, call.sizes(x))])
    return Sizes(total.elements.reshape(()), torch.int64)
