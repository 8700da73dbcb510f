"""Builds the probe's graph: the parent's with reductions added, and without what they do not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.normalisations import SUMMING, show_sum, sum_name
from graphclone.graph import Model
from graphclone.statistics import nan_guards
from graphclone.statistics.masks import Layout
from graphclone.statistics.moments import MOMENT, MOMENT_COUNT, MOMENT_SUM, tile_shapes
from graphclone.statistics.nodes import Builder, Row
from graphclone.statistics.reductions import RECIPES, Bench, Place


class Care(IntEnum):
    """How a probe treats rows that are not numbers; the next one costs more.

    TRUSTING: the exporter's own guards are left out. EXPORTED: as exported. GUARDED: padded positions become 0 before
    they are summed, too.
    """

    TRUSTING = 0
    EXPORTED = 1
    GUARDED = 2


@dataclass(frozen=True)
class Reduced:
    """A probe's graph. Its outputs are ``names``: all vectors one after the other (float32), all counts (int64), then
    the tiles of second moments.

    vectors: (place, statistic, size) in order. counts: places in order. tiles: (place, statistic, shape) in order.
    care: the least that its graph takes, since it may have no guard to leave out.
    """

    model: Model
    vectors: tuple[tuple[str, str, int], ...]
    counts: tuple[str, ...]
    tiles: tuple[tuple[str, str, tuple[int, int]], ...]
    care: Care = Care.EXPORTED

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Of each output, by name."""
        tiles = {f"tile.{k}": shape for k, (_, _, shape) in enumerate(self.tiles)}
        vectors = {"vectors": (sum(size for _, _, size in self.vectors),)} if self.vectors else {}
        return {**vectors, "counts": (len(self.counts),), **tiles}

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return list(self.sizes)


def reduce_places(model: Model, places: Sequence[Place], care: Care = Care.EXPORTED) -> Reduced:
    """A copy of the model whose outputs are the sums of each place's recipe and a count."""
    copy = model.copy()
    show_sums(copy, places)
    if care is Care.TRUSTING and not nan_guards.leave_out(copy.graph, {v for place in places for v in place.values}):
        care = Care.EXPORTED
    tensors = copy.graph.tensors()
    builder = Builder(copy.graph.opset)
    rows: dict[tuple[str, bool], Row] = {}
    for layout in dict.fromkeys(layout for place in places for layout in place.layouts if layout.mask):
        key = (str(layout.mask), layout.turned)
        if key not in rows:
            rows[key] = Row.build(builder, tensors[layout.mask], turned=layout.turned)
    first = builder.taken()
    behind: dict[str, list[gs.Node]] = {}
    made: dict[tuple[str, Layout], gs.Variable] = {}
    cached: dict[tuple[str, str], gs.Variable] = {}
    vectors, counts, tiles, slots = [], [], [], []
    pieces: list[tuple[str, str, tuple[int, int]]] = []
    for place in places:
        row = rows.get((str(place.layouts[0].mask), place.layouts[0].turned))
        values = []
        for name, layout in zip(place.values, place.layouts, strict=True):
            if (name, layout) not in made:
                made[name, layout] = _opened(builder, tensors[name], layout, place, row, care is Care.GUARDED)
                behind.setdefault(name, []).extend(builder.taken())
            values.append(made[name, layout])
        bench = Bench(builder, place, values, place.layouts[0].rank, row, cached)
        for statistic, made_here in RECIPES[place.kind](bench).items():
            if statistic == MOMENT:
                tiles += made_here
                pieces += [(place.name, statistic, shape) for shape in tile_shapes(place.across)]
            else:
                vectors += made_here
                slots.append((place.name, statistic, _size(place, statistic)))
        counts.append(builder.reshape(bench.count(), [1], np.int64))
        behind.setdefault(place.values[-1], []).extend(builder.taken())
    joined = [builder.add("Concat", vectors, axis=0)] if vectors else []
    joined.append(builder.add("Concat", counts, np.int64, axis=0))
    copy.graph.nodes[:] = [*_interleaved(first, list(copy.graph.nodes), behind), *builder.taken()]
    copy.graph.outputs = [*joined, *tiles]
    return Reduced(copy, tuple(slots), tuple(place.name for place in places), tuple(pieces), care)


def _size(place: Place, statistic: str) -> int:
    """Of one of a place's vectors."""
    if statistic == MOMENT_SUM:
        return place.across
    return 1 if statistic == MOMENT_COUNT or place.kind == "block" else len(place.kept) or place.width


def show_sums(model: Model, places: Sequence[Place]) -> None:
    """Operators that normalise a sum of their own show it, where a place reads it; in place."""
    wanted = {value for place in places for value in place.values}
    for node in model.graph.nodes:
        if node.op in SUMMING and sum_name(node) in wanted:
            show_sum(node)


def _interleaved(first: list[gs.Node], nodes: Sequence[gs.Node], behind: Mapping[str, list[gs.Node]]) -> list[gs.Node]:
    """Each reduction right behind what it reduces: a runtime that keeps the order frees the activation there."""
    left = dict(behind)
    made: list[gs.Node] = []
    for node in nodes:
        made.append(node)
        for tensor in node.outputs:
            made += left.pop(tensor.name, [])
    return [*first, *(n for nodes in left.values() for n in nodes), *made]  # what is left reduces the graph's inputs


def _opened(
    builder: Builder, value: gs.Tensor, layout: Layout, place: Place, row: Row | None, guard: bool
) -> gs.Variable:
    """A value in float32, [batch, length, ...] where a mask lies over it."""
    if value.dtype != np.float32:
        value = builder.cast(value, np.float32)
    if row is None:
        return value
    if layout.flat:
        tail = builder.add(
            "Slice", [builder.add("Shape", [value], np.int64), *map(builder.constant, ([1], [9]))], np.int64
        )
        shape = builder.add("Concat", [row.shape, tail], np.int64, axis=0)
        value = builder.add("Reshape", [value, shape])
    if guard:
        kept = builder.reshape(row.kept, [0, 0] + [1] * (layout.rank - 2), np.bool_)
        value = builder.add("Where", [kept, value, builder.number(0)])
    return value
