"""Mapped files, and rows of them that are read from the file itself rather than through the map.

A map gives every array its place in a file for nothing. To copy many rows out of it is dear: each page is a fault, and
stays in the process until it is given back. So rows are read by their offsets, into memory of one's own, where the
system has ``preadv`` and the file under the path is still the mapped one; from the map where not. Asking the disk for
rows ahead of time is a hint that changes no number.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
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
PARTS = 512  # of memory that one call fills, of 1,024 that POSIX systems take
SCRAP = np.empty(GAP, np.uint8)  # where gaps are read to: nobody looks at it
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


def spilled(array: Array) -> Array:
    """The same numbers, read-only, in a nameless file of the temporary folder: read from the disk when they are looked
    at, gone with the last array that has them. Raises BadModel where there is no room."""
    try:
        with tempfile.TemporaryFile(prefix="graphclone-") as stream:
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            stream.flush()
            held = np.memmap(stream, mode="r")
    except OSError as reason:
        raise BadModel(
            f"{tempfile.gettempdir()}: no room for {array.nbytes:,} bytes of weights ({reason.strerror}): set TMPDIR "
            f"to a folder on a larger disk"
        ) from None
    made: Array = np.asarray(held).view(array.dtype).reshape(array.shape)
    release(made)
    return made


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
    begin, row = byte_bounds(array)[0], array.strides[0]
    starts, ends = _runs(rows if isinstance(rows, slice) else np.sort(rows), max(GAP // max(row, 1), 0))
    low, high = begin + starts * row, begin + ends * row
    if _asked_at_once(low - low % mmap.PAGESIZE, high):
        return
    with origin.opened() as file:
        if file is not None:
            for start, size in zip((low - origin.address).tolist(), (high - low).tolist(), strict=True):
                os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)


def _asked_at_once(low: Ids, high: Ids) -> bool:
    """Ask for all runs in one call, which Linux has since 5.10: between many short ones Python's threads wait for each
    other longer than the calls take."""
    if _process_madvise is None:
        return False
    runs = np.stack([low, high - low], axis=1).astype(np.uintp)
    with _this_process() as process:
        return process is not None and all(
            _process_madvise(process, part.ctypes.data, len(part), mmap.MADV_WILLNEED, 0) >= 0
            for part in np.split(runs, range(PARTS, len(runs), PARTS))
        )


@contextmanager
def _this_process() -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(os.getpid())
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _system_call() -> Callable[[int, int, int, int, int], int] | None:
    found = getattr(ctypes.CDLL(None), "process_madvise", None) if sys.platform == "linux" else None
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
        found.restype = ctypes.c_ssize_t
    return found


_process_madvise = _system_call()


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
        sizes, gaps = (ends - starts) * row, np.append(starts[1:] - ends[:-1], -1) * row
        made, place, at = memory(int(sizes.sum())), 0, -1
        parts: list[memoryview] = []
        for start, size, gap in zip((begin + starts * row).tolist(), sizes.tolist(), gaps.tolist(), strict=True):
            at = start if not parts else at
            parts.append(made.data[place : place + size])
            place += size
            if 0 < gap <= SCRAP.size and len(parts) < PARTS:
                parts.append(SCRAP.data[:gap])
            else:
                _fill(parts, file, at, origin.path)
                parts = []
    return made.view(array.dtype).reshape((-1, *array.shape[1:]))


def _fill(parts: list[memoryview], file: int, start: int, path: str) -> None:
    left = sum(map(len, parts))
    while left:
        done = os.preadv(file, parts, start)
        if not done:
            raise BadModel(f"{path}: was cut short while it was open: start again")
        left, start = left - done, start + done
        while left and done >= len(parts[0]):
            done -= len(parts.pop(0))
        parts[0] = parts[0][done:]


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
