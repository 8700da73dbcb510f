"""Data movement: ids move as the data does."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.elementwise import aligned_axis
from graphclone.anatomy.flows.table import drop_axis, first, ints, known, row
from graphclone.anatomy.ids import ALWAYS, Factors
from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Shape, Trace, Value, describe, plain
from graphclone.errors import UnsupportedGraph


@row("Shape")
def shape_of(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    dims = np.array(first(node, inputs).shape, np.int64)[node.attrs.get("start", 0) : node.attrs.get("end")]
    return [plain(dims.shape, dims, first(node, inputs).static)]


@row("Size")
def size_of(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    return [plain((), np.array(np.prod(first(node, inputs).shape, dtype=np.int64)), first(node, inputs).static)]


@row("Transpose")
def transpose(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    order = node.attrs.get("perm") or list(reversed(range(len(value.shape))))
    return [Value(tuple(value.shape[i] for i in order), tuple(value.factors[i] for i in order), static=value.static)]


@row("Reshape")
def reshape(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    asked = ints(node, inputs, "shape", 1) or []
    keep_zero = bool(node.attrs.get("allowzero", 0))
    shape = [value.shape[i] if d == 0 and not keep_zero else d for i, d in enumerate(asked)]
    total = int(np.prod(value.shape, dtype=np.int64))
    if -1 in shape:
        rest = int(np.prod([d for d in shape if d != -1], dtype=np.int64))
        shape[shape.index(-1)] = total // rest if rest else 0
    if int(np.prod(shape, dtype=np.int64)) != total:
        raise UnsupportedGraph(f"{describe(node)}: cannot reshape {list(value.shape)} into {asked}")
    return [reshaped(trace, value, tuple(shape))]


@row("Flatten")
def flatten(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value, axis = first(node, inputs), int(node.attrs.get("axis", 1))
    return [reshaped(trace, value, (int(np.prod(value.shape[:axis])), int(np.prod(value.shape[axis:]))))]


@row("Squeeze")
def squeeze(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    axes = ints(node, inputs, "axes", 1)
    gone = {a % len(value.shape) for a in axes} if axes else {i for i, d in enumerate(value.shape) if d == 1}
    for axis in gone:
        drop_axis(trace, node, value.axis(axis))
    kept = [i for i in range(len(value.shape)) if i not in gone]
    return [Value(tuple(value.shape[i] for i in kept), tuple(value.factors[i] for i in kept), static=value.static)]


@row("Unsqueeze")
def unsqueeze(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    axes = ints(node, inputs, "axes", 1) or []
    rank = len(value.shape) + len(axes)
    new = {a % rank for a in axes}
    shape, factors = iter(value.shape), iter(value.factors)
    return [
        Value(
            tuple(1 if i in new else next(shape) for i in range(rank)),
            tuple(() if i in new else next(factors) for i in range(rank)),
            static=value.static,
        )
    ]


def reshaped(trace: Trace, value: Value, shape: Shape) -> Value:
    """Walk both shapes, matching the smallest runs of axes of equal products; merge a run's ids, then split them."""
    factors: list[Factors] = [()] * len(shape)
    for old, new in _runs(value.shape, shape):
        sizes = tuple(value.shape[i] for i in old)
        for position, axis in enumerate(old):
            for factor in value.axis(axis):
                if 0 in sizes:
                    raise ValueError(f"neurons of {list(value.shape)} are mixed with an axis that is empty here")
                spread = [1] * len(old)
                spread[position] = -1
                merged = np.ascontiguousarray(np.broadcast_to(factor.reshape(spread), sizes)).reshape(-1)
                for k, parts in zip(new, trace.ids.split(merged, tuple(shape[i] for i in new)), strict=True):
                    factors[k] += parts
    return Value(shape, tuple(factors), static=value.static)


def _runs(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        a, b = (old[i] if left else 1), (new[j] if right else 1)
        i, j = i + len(left), j + len(right)
        while a != b and (i < len(old) or j < len(new)):  # an empty axis makes the rest of its run count for nothing
            if (a < b and i < len(old)) or j >= len(new):
                left, a, i = [*left, i], a * old[i], i + 1
            else:
                right, b, j = [*right, j], b * new[j], j + 1
        if runs and not (left and right):  # trailing axes of length 1 belong to the run before them
            runs[-1][0].extend(left)
            runs[-1][1].extend(right)
        elif left or right:
            runs.append((left, right))
    return runs


def taken(value: Value, axis: int, positions: Ids, static: bool | None = None) -> Value:
    """Positions of an axis, in the order given."""
    shape = list(value.shape)
    shape[axis] = len(positions)
    factors = list(value.factors)
    factors[axis] = tuple(f[positions] for f in value.axis(axis))
    return Value(tuple(shape), tuple(factors), static=value.static)


@row("Slice")
def slice_(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    starts, ends = ints(node, inputs, "starts", 1) or [], ints(node, inputs, "ends", 2) or []
    axes = ints(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = ints(node, inputs, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(value.shape)
        value = taken(value, axis, np.arange(value.shape[axis])[start:end:step])
    return [value]


@row("Split")
def split(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    axis = int(node.attrs.get("axis", 0)) % len(value.shape)
    size, count = value.shape[axis], len(node.outputs)
    sizes = ints(node, inputs, "split", 1)
    if sizes is None:
        chunk = -(-size // count)
        sizes = [max(0, min(chunk, size - k * chunk)) for k in range(count)]
    ends = np.cumsum(sizes)
    return [taken(value, axis, np.arange(e - s, e)) for s, e in zip(sizes, ends, strict=True)]


@row("Concat")
def concat(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Positions stand side by side along the axis; along every other axis the operands are aligned."""
    values = [v for v in inputs if v is not None]
    rank = len(values[0].shape)
    axis = int(node.attrs["axis"]) % rank
    joined = [trace.ids.resolve(v.axis(axis)) for v in values]
    depth = max(len(f) for f in joined)
    along = []
    for k in range(depth):
        pieces = [
            f[k] if k < len(f) else np.full(v.shape[axis], ALWAYS, np.int64)
            for f, v in zip(joined, values, strict=True)
        ]
        along.append(np.concatenate(pieces))
    factors = [
        tuple(along)
        if i == axis
        else aligned_axis(trace, node, [v.axis(i) for v in values if v.shape[axis] or v.axis(i)])
        for i in range(rank)
    ]
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    return [Value(tuple(shape), tuple(factors), static=all(v.static for v in values))]


@row("Expand")
def expand(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    asked = known(node, inputs, 1)
    assert asked is not None
    return [expanded(trace, value, tuple(np.broadcast_shapes(value.shape, tuple(int(d) for d in asked))))]


def expanded(trace: Trace, value: Value, shape: Shape) -> Value:
    """An axis made by repetition gets ids of its own: KV head -> (KV head, query head of the group)."""
    lead = len(shape) - len(value.shape)
    factors: list[Factors] = [()] * lead + list(value.factors)
    for axis, size in enumerate(shape):
        grown = axis < lead or value.shape[axis - lead] != size
        if grown and size > 1:
            same = tuple(np.repeat(f, size) for f in factors[axis])
            factors[axis] = (*same, trace.ids.fresh(size))
    return Value(shape, tuple(factors), static=value.static)


@row("ConstantOfShape")
def constant_of_shape(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """One number everywhere: any position may be cut. A list of sizes being computed is not that."""
    shape = tuple(int(d) for d in ints(node, inputs, "shape", 0) or [])
    if len(shape) < 2:
        return [plain(shape)]
    return [Value(shape, tuple((trace.ids.fresh(d),) if d > 1 else () for d in shape))]


@row("Tile")
def tile(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    repeats = ints(node, inputs, "repeats", 1) or []
    factors = list(value.factors)
    for axis, count in enumerate(repeats):
        if count > 1 and value.labelled:
            copies = np.repeat(trace.ids.fresh(count), value.shape[axis])
            factors[axis] = (*(np.tile(f, count) for f in factors[axis]), copies)
    shape = tuple(d * r for d, r in zip(value.shape, repeats, strict=True))
    return [Value(shape, tuple(factors), static=value.static)]


@row("Pad")
def pad(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Padding holds no neurons: it is never cut."""
    value = first(node, inputs)
    pads = ints(node, inputs, "pads", 1) or []
    axes = ints(node, inputs, "axes", 3) or list(range(len(value.shape)))
    shape, factors = list(value.shape), list(value.factors)
    for k, axis in enumerate(axes):
        before, after = pads[k], pads[k + len(axes)]
        if (before or after) and value.axis(axis):
            trace.pin(value.axis(axis), f"padded by {describe(node)}")
            factors[axis] = ()
        shape[axis] += before + after
    return [Value(tuple(shape), tuple(factors), static=value.static)]


@row("Trilu")
def trilu(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    for axis in (-2, -1):
        trace.pin(value.axis(axis), f"cut to a triangle by {describe(node)}")
    return [value]
