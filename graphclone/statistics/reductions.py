"""What the probe adds to the graph: per place, sums over batch and tokens with the padding left out.

Masked sums are products with the mask as a row vector: one pass over the activation, faster than any Reduce operator
of ONNX Runtime, and sequence by sequence, which keeps float32 sums accurate. Everything is summed in float32 within a
batch, whatever the graph computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Norm
from graphclone.statistics.masks import Layout
from graphclone.statistics.moments import MOMENT, MOMENT_COUNT, MOMENT_SUM, STEP, products
from graphclone.statistics.nodes import SLICE_BY_INPUTS, Builder, Row

# both run at any opset: ONNX Runtime has them in the standard domain from its first version on
NORMALISE = {"LayerNorm": "LayerNormalization", "RMSNorm": "SimplifiedLayerNormalization"}
SMALLEST = float(np.finfo(np.float32).tiny)  # stands under a division by the norm of a token that is zero


@dataclass(frozen=True)
class Place:
    """Where the probe reduces: a site, or a block between its entry and its exit.

    kind: a row of ``RECIPES``. axis: of the neurons, negative. kept: for the second pass, their positions along the
    axis. moment: second moments too. layouts: of each of ``values``. inner: sizes of the axes behind the positions.
    joined: width of the vector that several values are joined to, where moments are of that.
    """

    name: str
    kind: str
    values: tuple[str, ...]
    axis: int
    width: int
    norm: Norm | None = None
    kept: tuple[int, ...] = ()
    moment: bool = False
    layouts: tuple[Layout, ...] = ()
    inner: tuple[int, ...] = ()
    joined: int = 0

    @property
    def across(self) -> int:
        """Width of what second moments are of."""
        return self.joined or self.width


@dataclass
class Bench:
    """What a recipe works with: the values of one place, float32, opened to [batch, length, ...], and their mask."""

    builder: Builder
    place: Place
    values: list[gs.Variable]
    rank: int
    row: Row | None
    cached: dict[tuple[str, str], gs.Variable] = field(default_factory=dict)

    @property
    def axis(self) -> int:
        """Of the neurons, counted from the front."""
        return self.rank + self.place.axis

    def total(self, value: gs.Variable, axis: int) -> gs.Variable:
        """Sum over all axes but one, the innermost first: short sums of float32 stay accurate."""
        if self.row is None and self.rank > 2 and axis == self.rank - 1:
            rows = self.builder.add("MatMul", [self._ones(), value])  # [.., 1, width]
            return self.builder.sum(rows, list(range(axis)))
        for other in range(self.rank - 1, -1 if self.row is None else 1, -1):
            if other != axis:
                value = self.builder.sum(value, [other])
        if self.row is None:
            return value
        weighted = self.builder.add("MatMul", [self.row.weights, value])  # [batch, 1, width]
        return self.builder.sum(weighted, [0, 1])

    def _ones(self) -> gs.Variable:
        """A row [1, length], as long as the last axis but one of the place's values; made once a value."""
        key = (self.place.values[0], "ones")
        if key not in self.cached:
            builder = self.builder
            shape = builder.add("Shape", [self.last(self.values[0])], np.int64)
            length = builder.add("Gather", [shape, builder.constant([self.rank - 2])], np.int64, axis=0)
            size = builder.add("Concat", [builder.constant([1]), length], np.int64, axis=0)
            self.cached[key] = builder.add("Expand", [builder.number(1), size])
        return self.cached[key]

    def last(self, value: gs.Variable) -> gs.Variable:
        """The same with the neurons along the last axis."""
        if self.axis == self.rank - 1:
            return value
        order = [k for k in range(self.rank) if k != self.axis]
        return self.builder.add("Transpose", [value], perm=[*order, self.axis])

    def normalised(self, value: gs.Variable, width: int) -> gs.Variable:
        """What the place's norm makes of a value along its last axis, gain and bias left out."""
        norm = self.place.norm
        assert norm is not None
        gain = self.builder.constant(np.ones(width, np.float32))
        return self.builder.add(NORMALISE[norm.kind], [value, gain], axis=-1, epsilon=norm.epsilon)

    def product(self, one: gs.Variable, other: gs.Variable) -> gs.Variable:
        """Elementwise."""
        return self.builder.add("Mul", [one, other])

    def alike(self, values: list[gs.Variable]) -> list[gs.Variable]:
        """The place's values, those that lie otherwise (flattened by one of the graph's products) as the first."""
        ranks = [layout.rank for layout in self.place.layouts]
        if len(set(ranks)) == 1:
            return values
        builder = self.builder
        bounds = map(builder.constant, ([0], [ranks[0] - 1]))
        lead = builder.add("Slice", [builder.add("Shape", [values[0]], np.int64), *bounds], np.int64)
        shape = builder.add("Concat", [lead, builder.constant([-1])], np.int64, axis=0)
        return [values[0], *(builder.add("Reshape", [value, shape]) for value in values[1:])]

    def join(self, values: list[gs.Variable]) -> gs.Variable:
        """One vector a position."""
        return self.builder.add("Concat", values, axis=-1)

    def count(self) -> gs.Variable:
        """Positions kept: several a token where a value has inner axes."""
        builder = self.builder
        size = builder.add("Size", [self.values[0]], np.int64)
        positions = builder.add("Div", [size, builder.constant(self.place.width)], np.int64)
        if self.row is None:
            return positions
        each = builder.add("Div", [positions, self.row.size], np.int64)
        return builder.add("Mul", [each, self.row.tokens], np.int64)


Sums = dict[str, list[gs.Variable]]  # statistic -> the vector that holds it, or the tiles of a moment


def _vectors(bench: Bench, value: gs.Variable, axis: int) -> Sums:
    return {
        "abs": [bench.total(bench.builder.add("Abs", [value]), axis)],
        "sum": [bench.total(value, axis)],
        "square": [bench.total(bench.product(value, value), axis)],
    }


def _activations(bench: Bench) -> Sums:
    """A writer's or inner site: sums of |x|, x and x^2, and of the outer product where it is asked."""
    (value,) = bench.values
    found = _vectors(bench, value, bench.axis)
    return found | _own_moments(bench) if bench.place.moment else found


def _own_moments(bench: Bench) -> Sums:
    return _moments(bench, bench.last(bench.values[0]))


def _moments(bench: Bench, value: gs.Variable) -> Sums:
    """The outer product, of every ``STEP``-th position of a sequence: its multiplications cost as much as the model's
    own where the site is wide. With it the sum and the number of the same positions. Values that are not laid out as
    [batch, length, width] are taken whole."""
    builder, across = bench.builder, bench.place.across
    column = None if bench.row is None else bench.row.column
    sampled = is_sampled(bench.place, bench.rank) and builder.opset >= SLICE_BY_INPUTS
    if sampled:
        value = builder.every(value, 1, STEP)
        column = None if column is None else builder.every(column, 1, STEP)
    if column is not None:
        value = bench.product(value, builder.reshape(column, [0, 0] + [1] * (bench.rank - 2)))
    rows = builder.reshape(value, [-1, across])
    if not sampled:
        count = builder.cast(bench.count(), np.float32)
    elif column is not None:
        count = builder.sum(column, [0, 1])
    else:
        shape = builder.add("Shape", [rows], np.int64)
        count = builder.cast(builder.add("Gather", [shape, builder.constant([0])], np.int64, axis=0), np.float32)
    return {
        MOMENT: products(builder, rows, across),
        MOMENT_SUM: [builder.sum(rows, [0])],
        MOMENT_COUNT: [builder.reshape(count, [1])],
    }


def is_sampled(place: Place, rank: int) -> bool:
    """Whether second moments are of some positions of a sequence alone."""
    return rank == 3 and not place.layouts[0].turned


def _norm(bench: Bench) -> Sums:
    """What a norm makes of its input, before gain and bias: sums of |u|, u and u^2."""
    value = bench.normalised(bench.last(bench.values[0]), bench.place.width)
    return _vectors(bench, value, bench.rank - 1)


def _kept(bench: Bench) -> Sums:
    """At a norm, over kept neurons: ``n`` is normalised with all others, ``k`` among themselves."""
    value = bench.last(bench.values[0])
    places = np.asarray(bench.place.kept)
    n = bench.builder.take(bench.normalised(value, bench.place.width), places)
    k = bench.normalised(bench.builder.take(value, places), places.size)
    pairs = {
        "n": n,
        "n_square": bench.product(n, n),
        "k": k,
        "k_square": bench.product(k, k),
        "nk": bench.product(n, k),
    }
    return {name: [bench.total(each, bench.rank - 1)] for name, each in pairs.items()}


def _read_in(bench: Bench) -> Sums:
    """At a norm: of all neurons as the norm makes them, then of the kept ones among themselves."""
    value = bench.last(bench.values[0])
    places = np.asarray(bench.place.kept)
    whole = bench.normalised(value, bench.place.width)
    return _moments(bench, bench.join([whole, bench.normalised(bench.builder.take(value, places), places.size)]))


def _stream(bench: Bench) -> Sums:
    """At a norm: of all neurons as the norm makes them."""
    return _moments(bench, bench.normalised(bench.last(bench.values[0]), bench.place.width))


def _gap(bench: Bench) -> Sums:
    """Of what a projection reads, then of what it writes and dropped blocks behind it add, on the kept neurons."""
    places = np.asarray(bench.place.kept)
    read, *others = bench.alike([bench.last(value) for value in bench.values])
    writes, leaves, arrives = (bench.builder.take(value, places) for value in others)
    target = bench.builder.add("Add", [writes, bench.builder.add("Sub", [arrives, leaves])])
    return _moments(bench, bench.join([read, target]))


def _block(bench: Bench) -> Sums:
    """Cosine of a block's entry and exit, and |exit - entry| / |exit|, a token."""
    builder = bench.builder
    entry, exit_ = (bench.last(value) for value in bench.values)
    before, after = (_length(bench, at, value) for at, value in enumerate((entry, exit_)))
    ones = builder.constant(np.ones((bench.place.width, 1), np.float32))
    inner = builder.add("MatMul", [bench.product(entry, exit_), ones])
    change = builder.add("Sub", [exit_, entry])
    moved = builder.add("Sqrt", [builder.add("MatMul", [bench.product(change, change), ones])])
    floor = builder.number(SMALLEST)
    cosine = builder.add("Div", [inner, builder.add("Max", [bench.product(before, after), floor])])
    ratio = builder.add("Div", [moved, builder.add("Max", [after, floor])])
    return {"cosine": [bench.total(cosine, bench.rank - 1)], "ratio": [bench.total(ratio, bench.rank - 1)]}


def _length(bench: Bench, at: int, value: gs.Variable) -> gs.Variable:
    """L2 norm a token; one block's exit is the next one's entry, and its norms are made once."""
    key = (bench.place.values[at], str(bench.place.layouts[at]))
    if key not in bench.cached:
        ones = bench.builder.constant(np.ones((bench.place.width, 1), np.float32))
        squares = bench.builder.add("MatMul", [bench.product(value, value), ones])
        bench.cached[key] = bench.builder.add("Sqrt", [squares])
    return bench.cached[key]


# kind of a place -> the nodes that reduce it
RECIPES: dict[str, Callable[[Bench], Sums]] = {
    "writer": _activations,
    "inner": _activations,
    "norm": _norm,
    "block": _block,
    "kept": _kept,
    "moment": _own_moments,
    "read-in": _read_in,
    "pca": _stream,
    "depth-patch": _gap,
}
