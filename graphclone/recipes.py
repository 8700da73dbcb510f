"""Weights that are not there yet: a recipe says which rows and columns of another array a weight is made of.

A recipe stands in a graph where the numbers would (onnx-graphsurgeon calls such a thing lazy values). It knows its
shape and type; the saver evaluates it in pieces that fit a processor's cache, from the memory map straight into the
output, and never holds the whole. Whoever asks for ``tensor.values`` gets all of it at once.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.lib.array_utils import byte_bounds
from onnx_graphsurgeon.ir.tensor import LazyValues

Array = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
Place = tuple[int | slice, ...]  # leading indices, then a range of the next axis: one run of the result in C order
Finish = Callable[[Array, Place], Array]

PIECE = 1 << 20  # bytes read or made at a time


class Recipe(LazyValues):  # type: ignore[misc]  # onnx-graphsurgeon has no types
    """``source`` taken along axes and finished.

    takes: axis -> positions of the source; of any other axis all. finish: what is done to a piece that was taken, at
    its place in the result; it keeps shape and type. ``whole``: finish has to see everything at once.
    """

    def __init__(
        self, source: Array | Recipe, takes: Mapping[int, Ids], finish: Finish | None = None, whole: bool = False
    ) -> None:
        self.source, self.takes, self.finish, self.whole = source, dict(takes), finish, whole
        self.shape: tuple[int, ...] = tuple(
            len(takes[k]) if k in takes else size for k, size in enumerate(source.shape)
        )
        self.dtype: np.dtype[Any] = source.dtype
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> Array:
        """All of it, in memory of its own."""
        result = np.empty(self.shape, self.dtype)
        for place in self.places():
            result[place] = self.make(place)
        return result

    def make(self, place: Place) -> Array:
        """One piece of the result, in memory of its own."""
        lead, rows = place[:-1], place[-1]
        axis = len(lead)
        piece = _rows(self.source, tuple(self._at(k, i) for k, i in enumerate(lead)), self._at(axis, rows))
        for k in sorted(self.takes):
            if k > axis:
                piece = np.take(piece, self.takes[k], axis=k - axis)
        return piece if self.finish is None else self.finish(piece, place)

    def _at(self, axis: int, index: Any) -> Any:
        """Positions of the source; a range where they are one, which is read without copying."""
        if axis not in self.takes:
            return index
        taken = self.takes[axis][index]
        if np.ndim(taken) and taken.size and taken[-1] - taken[0] == taken.size - 1 and (np.diff(taken) == 1).all():
            return slice(int(taken[0]), int(taken[-1]) + 1)
        return taken

    def places(self, budget: int = PIECE) -> Iterator[Place]:
        """Where the pieces lie that ``make`` makes, in order, none of them much larger than ``budget`` bytes."""
        if self.whole:
            return iter([(slice(0, self.shape[0]),)])
        widest = [max(a, b) for a, b in zip(self.shape, self.source.shape, strict=True)]
        return _places(self.shape, widest, self.dtype.itemsize, budget)


def _rows(source: Array | Recipe, lead: tuple[Any, ...], rows: Any) -> Array:
    """A copy, after which no page of the source is held."""
    if isinstance(source, Recipe):
        whole: Array = source.load()[lead][rows] if source.whole else source.make((*lead, rows))
        return whole
    inner = source[lead]
    span = inner[rows] if isinstance(rows, slice) else inner[rows.min() : rows.max() + 1]
    taken: Array = span.copy() if isinstance(rows, slice) else span[rows - rows.min()]
    release(span)
    return taken


def _places(shape: tuple[int, ...], widest: list[int], itemsize: int, budget: int) -> Iterator[Place]:
    row = itemsize * math.prod(widest[1:])
    if row > budget and len(shape) > 1:
        for index in range(shape[0]):
            yield from ((index, *place) for place in _places(shape[1:], widest[1:], itemsize, budget))
        return
    step = max(1, budget // max(row, 1))
    for start in range(0, shape[0], step):
        yield (slice(start, min(start + step, shape[0])),)


def is_lazy(tensor: gs.Constant) -> bool:
    """Is it a recipe that nobody has asked the numbers of?"""
    return isinstance(tensor._values, Recipe)


def held(tensor: gs.Constant) -> Array | Recipe:
    """What a constant holds, numbers or recipe, with ``shape``, ``dtype`` and ``nbytes``; computes nothing."""
    values: Array | Recipe = tensor._values if is_lazy(tensor) else tensor.values
    return values


def sample(values: Array | Recipe, count: int) -> Array:
    """The first numbers in C order."""
    if isinstance(values, Recipe):
        values = values.make(next(values.places(count * values.dtype.itemsize)))
    return values.reshape(-1)[:count]


def pieces(values: Array | Recipe, budget: int = PIECE) -> Iterator[Callable[[], Array]]:
    """Functions that make the array's bytes, a run of them each, in order: uint8; none for an empty one."""
    if not isinstance(values, Recipe):
        if not values.nbytes:
            return
        values = Recipe(np.atleast_1d(values), {})
    for place in values.places(budget):
        yield partial(_bytes, values, place)


def _bytes(recipe: Recipe, place: Place) -> Array:
    return np.ascontiguousarray(recipe.make(place)).reshape(-1).view(np.uint8)


def release(array: Array) -> None:
    """Give the pages of a mapped file back: they stay in the system's cache, and no longer count as this process's."""
    if array.flags.writeable or not array.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None:
        start = np.frombuffer(base, np.uint8).ctypes.data
        low, high = (bound - start for bound in byte_bounds(array))
        low -= low % mmap.PAGESIZE
        base.madvise(mmap.MADV_DONTNEED, low, high - low)
