"""Second moments, sum a a^T: the tiles of the upper triangle that are computed and kept, and the matrix they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.statistics.nodes import Array, Builder

MOMENT = "moment"
MOMENT_SUM, MOMENT_COUNT = "moment_sum", "moment_count"  # of the positions that the moment is of
STEP = 2  # every second position of a sequence: the multiplications are most of what second moments cost
TILE = 192  # columns at least: narrower products are slow
AT_ONCE = 1 << 30  # bytes of sums in one run of the data
MOST_TILES = 8  # of n tiles (n + 1) / 2n is computed: 9/16 here


def bounds(width: int) -> list[tuple[int, int]]:
    """First and last column of each tile; tile k holds its rows from column k on.

    >>> bounds(500)
    [(0, 250), (250, 500)]
    """
    number = max(1, min(MOST_TILES, width // TILE))
    edges = [round(width * k / number) for k in range(number + 1)]
    return list(pairwise(edges))


def products(builder: Builder, rows: gs.Variable, width: int) -> list[gs.Variable]:
    """The tiles of rows^T rows, rows [positions, width]."""
    tiles = []
    for start, stop in bounds(width):
        whole = (start, stop) == (0, width)
        left = rows if whole else builder.columns(rows, start, stop)
        right = rows if start == 0 else builder.columns(rows, start, width)
        tiles.append(builder.add("Gemm", [left, right], transA=1))
    return tiles


def matrix(tiles: Sequence[Array]) -> Array:
    """The whole matrix, float64 [width, width]."""
    width = tiles[0].shape[1]
    made = np.empty((width, width))
    for (start, stop), tile in zip(bounds(width), tiles, strict=True):
        square = tile[:, : stop - start]
        made[start:stop, start:stop] = np.triu(square) + np.triu(square, 1).T  # symmetric to the last bit
        made[start:stop, stop:] = tile[:, stop - start :]
        made[stop:, start:stop] = tile[:, stop - start :].T
    return made


def tiles(moment: Array) -> list[Array]:
    """The inverse of ``matrix``."""
    return [moment[start:stop, start:].copy() for start, stop in bounds(moment.shape[0])]


def tile_shapes(width: int) -> list[tuple[int, int]]:
    """Of the tiles of one site, in order."""
    return [(stop - start, width - start) for start, stop in bounds(width)]


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
