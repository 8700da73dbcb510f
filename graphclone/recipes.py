"""Weights that are not there yet: a recipe says which rows and columns of another array a weight is made of.

A recipe stands in a graph where the numbers would (onnx-graphsurgeon calls such a thing lazy values). It knows its
shape and type; the saver evaluates it in pieces that fit a processor's cache, from the memory map straight into the
output, and never holds the whole. Whoever asks for ``tensor.values`` gets all of it at once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphclone import pages

Array = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
# leading indices, then rows of the next axis: a range, and so one run of the result in C order, or a list of positions
Place = tuple[Any, ...]
Finish = Callable[[Array, Place], Array]

Memory = Callable[[int], Array]  # gives so many bytes, to be written into

PIECE = 1 << 21  # bytes made at a time: Python's threads wait for each other at every one


class Recipe(LazyValues):  # type: ignore[misc]  # onnx-graphsurgeon has no types
    """``source`` taken along axes and finished.

    takes: axis -> positions of the source; of any other axis all. finish: what is done to a piece that was taken, at
    its place in the result; it keeps shape and type.
    """

    def __init__(self, source: Array | Recipe, takes: Mapping[int, Ids], finish: Finish | None = None) -> None:
        self.source, self.takes, self.finish = source, dict(takes), finish
        for axis, ids in self.takes.items():
            if len(ids) and not 0 <= ids.min() <= ids.max() < source.shape[axis]:
                raise IndexError(f"positions {ids.min()} to {ids.max()} of an axis of {source.shape[axis]}")
        self.shape: tuple[int, ...] = tuple(
            len(takes[k]) if k in takes else size for k, size in enumerate(source.shape)
        )
        self.dtype: np.dtype[Any] = source.dtype
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    @property
    def tensor(self) -> onnx.TensorProto:
        """All of it as onnx-graphsurgeon exports it; ``graph.skeleton`` sees to it that a large one never is."""
        return onnx.numpy_helper.from_array(self.load())

    def load(self) -> Array:
        """All of it, in memory of its own."""
        result = np.empty(self.shape, self.dtype)
        for place in self.places():
            result[place] = self.make(place)
        return result

    def expect(self, place: Place) -> None:
        """``make`` will soon be asked for this place: have the disk read what it takes."""
        there = tuple(self._at(axis, index) for axis, index in enumerate(place))
        if isinstance(self.source, Recipe):
            self.source.expect(there)
        elif there:
            pages.expect(self.source[there[:-1]], there[-1])

    def make(self, place: Place) -> Array:
        """One piece of the result, in memory of its own."""
        return self._made(place, _new)

    def _made(self, place: Place, memory: Memory) -> Array:
        lead = max(len(place) - 1, 0)
        there = tuple(self._at(axis, index) for axis, index in enumerate(place))
        across = [axis for axis in sorted(self.takes) if axis > lead]
        memories = [_scratch.memory] * (len(across) + (self.finish is not None)) + [memory]
        piece = _read(self.source, there, memories[0])
        for axis, to in zip(across, memories[1:], strict=False):
            piece = _take(piece, self.takes[axis], axis - lead, to)
        if self.finish is None:
            return piece
        made = self.finish(piece, place)
        return made.copy() if np.may_share_memory(made, piece) else made

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
        widest = [max(a, b) for a, b in zip(self.shape, self.source.shape, strict=True)]
        return _places(self.shape, widest, self.dtype.itemsize, budget)


def _read(source: Array | Recipe, place: Place, memory: Memory) -> Array:
    """A copy, after which no page of the source is held."""
    if isinstance(source, Recipe):
        return source._made(place, memory)
    return pages.take(source[place[:-1]], place[-1], memory) if place else source.copy()


def _take(piece: Array, ids: Ids, axis: int, memory: Memory) -> Array:
    """``np.take``; heads and whatever else stays in runs of 2^n is taken a run at a time, many times faster."""
    before, size, after = piece.shape[:axis], piece.shape[axis], piece.shape[axis + 1 :]
    width = _width(ids, size)
    runs = piece.reshape(*before, size // width, width, *after)
    made = memory(piece.itemsize * math.prod((*before, len(ids), *after))).view(piece.dtype)
    made = made.reshape(*before, len(ids) // width, width, *after)
    np.take(
        runs, ids[::width] // width, axis=axis, out=made, mode="clip"
    )  # "raise" would make a copy; they are checked
    return made.reshape(*before, len(ids), *after)


def _width(ids: Ids, size: int) -> int:
    """The longest runs, of a power of two, that ids are made of and that divide the axis."""
    width = 1
    while ids.size and len(ids) % (2 * width) == size % (2 * width) == 0 and width < 256:
        runs = ids.reshape(-1, 2, width)[:, :, 0]
        if not ((runs[:, 0] % (2 * width) == 0) & (runs[:, 1] == runs[:, 0] + width)).all():
            break
        width *= 2
    return width


class _Scratch(threading.local):
    """Memory of one thread for what is not kept: new memory is slow when it is first touched.

    Two pieces in turn, as each step reads what the one before it made.
    """

    def __init__(self) -> None:
        self.held, self.other = np.empty(0, np.uint8), np.empty(0, np.uint8)

    def memory(self, size: int) -> Array:
        """So many bytes, of whatever is in them; valid until the call after the next."""
        self.held, self.other = self.other, self.held
        if self.held.size < size:
            self.held = np.empty(size, np.uint8)
        return self.held[:size]


_scratch = _Scratch()


def _new(size: int) -> Array:
    return np.empty(size, np.uint8)


def _places(shape: tuple[int, ...], widest: list[int], itemsize: int, budget: int) -> Iterator[Place]:
    if not shape:
        yield ()
        return
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


@dataclass(frozen=True)
class Piece:
    """Some of an array's bytes in order, made when called: uint8."""

    recipe: Recipe
    place: Place

    def __call__(self) -> Array:
        """Make them."""
        return np.ascontiguousarray(self.recipe.make(self.place)).reshape(-1).view(np.uint8)

    def expect(self) -> None:
        """It will soon be called."""
        self.recipe.expect(self.place)


def pieces(values: Array | Recipe, budget: int = PIECE) -> Iterator[Piece]:
    """All of an array, a run of its bytes each, in order; none for an empty one."""
    if not isinstance(values, Recipe):
        if not values.nbytes:
            return
        values = Recipe(values, {})
    for place in values.places(budget):
        yield Piece(values, place)
