"""Lays out second moments, sum a a^T: the tiles of the upper triangle that are computed, and the matrix they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement, pairwise

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.statistics.nodes import Array, Builder

MOMENT = "moment"
MOMENT_SUM, MOMENT_COUNT = "moment_sum", "moment_count"  # of the positions that the moment is of
STEP = 2  # every second position of a sequence: the multiplications are most of what second moments cost
PIECE = 192  # columns at least: narrower products are slow
AT_ONCE = 1 << 30  # bytes of sums in one run of the data
MOST_PIECES = 8  # of n^2 tiles (n + 1) / 2n are computed: 9/16 here


def bounds(width: int) -> list[tuple[int, int]]:
    """First and last column of each piece; a tile is of two pieces, the first not behind the second.

    >>> bounds(500)
    [(0, 250), (250, 500)]
    """
    number = max(1, min(MOST_PIECES, width // PIECE))
    edges = [round(width * k / number) for k in range(number + 1)]
    return list(pairwise(edges))


def _pairs(width: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return list(combinations_with_replacement(bounds(width), 2))


def products(builder: Builder, rows: gs.Variable, width: int) -> list[gs.Variable]:
    """The tiles of rows^T rows, rows [positions, width]."""
    pieces = dict(zip(bounds(width), builder.split(rows, [stop - start for start, stop in bounds(width)]), strict=True))
    return [builder.add("Gemm", [pieces[one], pieces[other]], transA=1) for one, other in _pairs(width)]


def matrix(tiles: Sequence[Array], width: int) -> Array:
    """The whole matrix, float64 [width, width]."""
    made = np.empty((width, width))
    for (one, other), tile in zip(_pairs(width), tiles, strict=True):
        if one == other:
            tile = np.triu(tile) + np.triu(tile, 1).T  # symmetric to the last bit
        made[slice(*one), slice(*other)] = tile
        made[slice(*other), slice(*one)] = tile.T
    return made


def tiles(moment: Array) -> list[Array]:
    """The inverse of ``matrix``."""
    return [moment[slice(*one), slice(*other)].copy() for one, other in _pairs(moment.shape[0])]


def tile_shapes(width: int) -> list[tuple[int, int]]:
    """Of the tiles of one site, in order."""
    return [(one[1] - one[0], other[1] - other[0]) for one, other in _pairs(width)]


def tile_bytes(width: int) -> int:
    """Of the float64 sums of one site."""
    return sum(rows * columns * 8 for rows, columns in tile_shapes(width))


def groups(widths: Mapping[str, int], limit: int = AT_ONCE) -> list[list[str]]:
    """Sites (name -> width) in order, in groups with sums below ``limit`` bytes each: one run of the data a group.

    >>> groups({"a": 100, "b": 100, "c": 10}, limit=100_000)
    [['a'], ['b', 'c']]
    """
    made: list[list[str]] = []
    left = 0
    for name, width in widths.items():
        if not made or tile_bytes(width) > left:
            made.append([])
            left = limit
        made[-1].append(name)
        left -= tile_bytes(width)
    return made
