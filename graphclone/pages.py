"""Mapped files, and rows of them that are read from the file itself rather than through the map.

A map gives every array its place in a file for nothing. To copy many rows out of it is dear: each page is a fault, and
stays in the process until it is given back. So rows are read by their offsets, into memory of one's own, where the
system has ``preadv`` and the file under the path is still the mapped one; from the map where not. Asking the disk for
rows ahead of time is a hint that changes no number.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.lib.array_utils import byte_bounds

from graphclone.errors import BadModel

Array = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
GAP = 1 << 14  # bytes that are read along with what lies around them: to leave them out would cost another request
RUN = 1 << 12  # bytes that are copied as quickly as another call is made


@dataclass(frozen=True)
class _Origin:
    """Where a map's bytes are from. No file is kept open for it: weights may lie in more files than may be open."""

    path: str
    identity: tuple[int, int]
    address: int  # in memory, of the file's first byte

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """The file; None where there is another under its path, or none."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            yield None
            return
        try:
            yield file if _identity(file) == self.identity else None
        finally:
            os.close(file)


_origins: WeakKeyDictionary[mmap.mmap, _Origin] = WeakKeyDictionary()


def mapped(path: Path) -> Array:
    """The bytes of a file that is not empty, read-only; none is read before it is looked at."""
    with path.open("rb") as stream:
        data = np.memmap(stream, mode="r")
        origin = _Origin(str(path.resolve()), _identity(stream.fileno()), byte_bounds(data)[0])
    held = _map_of(data)
    assert held is not None
    _origins[held] = origin
    return data


def take(array: Array, rows: slice | Ids, memory: Callable[[int], Array]) -> Array:
    """A copy of some rows of an array: a range, or in any order. No page of a mapped file is held after it.

    memory: gives so many bytes to read into.
    """
    taken = _from_file(array, rows, memory)
    if taken is None:
        taken = array[rows].copy() if isinstance(rows, slice) else np.take(array, rows, axis=0)
        low, high = (rows.start, rows.stop) if isinstance(rows, slice) else (rows.min(), rows.max() + 1)
        release(array[low:high])
    return taken


def expect(array: Array, rows: slice | Ids) -> None:
    """Have the disk read these rows of a mapped file; what lies far between two is left alone."""
    origin = _origin(array)
    if origin is None or not hasattr(os, "posix_fadvise"):
        return
    begin, row = byte_bounds(array)[0] - origin.address, array.strides[0]
    starts, ends = _runs(rows if isinstance(rows, slice) else np.sort(rows), max(GAP // max(row, 1), 0))
    with origin.opened() as file:
        if file is not None:
            for start, size in zip((begin + starts * row).tolist(), ((ends - starts) * row).tolist(), strict=True):
                os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)


def release(array: Array) -> None:
    """Give the pages of a mapped file back: they stay in the system's cache, and no longer count as this process's."""
    held = _map_of(array)
    if held is not None and hasattr(mmap, "MADV_DONTNEED"):
        low, high = (address - byte_bounds(np.frombuffer(held, np.uint8))[0] for address in byte_bounds(array))
        low -= low % mmap.PAGESIZE
        held.madvise(mmap.MADV_DONTNEED, low, high - low)


def _from_file(array: Array, rows: slice | Ids, memory: Callable[[int], Array]) -> Array | None:
    origin = _origin(array)
    if origin is None or not hasattr(os, "preadv"):
        return None
    begin, row = byte_bounds(array)[0] - origin.address, array.strides[0]
    starts, ends = _runs(rows)
    if not isinstance(rows, slice) and (ends.max() - starts.min()) * row < RUN * len(starts):  # one call for all
        low = int(starts.min())
        span = _from_file(array, slice(low, int(ends.max())), memory)
        return None if span is None else np.take(span, rows - low, axis=0)
    with origin.opened() as file:
        if file is None:
            return None
        made, place = memory(int((ends - starts).sum()) * row), 0
        for start, size in zip((begin + starts * row).tolist(), ((ends - starts) * row).tolist(), strict=True):
            part = made.data[place : place + size]
            if os.preadv(file, (part,), start) != size:
                _fill(part, file, start, origin.path)
            place += size
    return made.view(array.dtype).reshape((-1, *array.shape[1:]))


def _fill(part: memoryview, file: int, start: int, path: str) -> None:
    while part:
        done = os.preadv(file, (part,), start)
        if not done:
            raise BadModel(f"{path}: was cut short while it was open: start again")
        part, start = part[done:], start + done


def _runs(rows: slice | Ids, gap: int = 0) -> tuple[Ids, Ids]:
    """First row of every run, in the order of rows, and the one after its last; a run may hold gaps so long."""
    if isinstance(rows, slice):
        return np.array([rows.start]), np.array([rows.stop])
    step = np.diff(rows)
    after = np.flatnonzero((step < 1) | (step > gap + 1)) + 1 if gap else np.flatnonzero(step != 1) + 1
    return rows[np.r_[0, after]], rows[np.r_[after - 1, -1]] + 1


def _origin(array: Array) -> _Origin | None:
    """Of an array whose rows lie one behind the other in a file."""
    held = _map_of(array) if array.flags.c_contiguous else None
    return None if held is None else _origins.get(held)


def _map_of(array: Array) -> mmap.mmap | None:
    """What is read-only and a file's. What is anybody's own memory must not be given back."""
    if array.flags.writeable or not array.size:
        return None
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base


def _identity(file: int) -> tuple[int, int]:
    held = os.fstat(file)
    return held.st_dev, held.st_ino
