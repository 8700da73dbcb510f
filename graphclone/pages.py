"""Pages of mapped files: what of them will be read soon, and what is not needed any more.

Both are hints that change no number. Asking for pages may wait for the disk, so the system is called by way of ctypes,
which lets Python's other threads run meanwhile; ``mmap.madvise`` holds them up.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

Array = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
GAP = 1 << 14  # bytes that are read along with what lies around them: to leave them out would cost another request


def _system_call() -> Callable[[int, int, int], int] | None:
    if os.name != "posix":
        return None
    found = getattr(ctypes.CDLL(None), "madvise", None)
    if found is not None:
        found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return found


_madvise = _system_call()


def release(array: Array) -> None:
    """Give the pages of a mapped file back: they stay in the system's cache, and no longer count as this process's."""
    if _is_mapped(array):
        _advise(*byte_bounds(array), "MADV_DONTNEED")


def expect(array: Array, rows: Ids | None = None) -> None:
    """Have the disk read these rows of a mapped file, or all of them; what lies far between two is left alone."""
    if not _is_mapped(array):
        return
    low, high = byte_bounds(array)
    if rows is None or not array.flags.c_contiguous:
        _advise(low, high, "MADV_WILLNEED")
        return
    row = array.strides[0]
    ordered = np.sort(rows)
    after = np.flatnonzero((np.diff(ordered) - 1) * row > GAP) + 1
    starts, ends = ordered[np.r_[0, after]], ordered[np.r_[after - 1, -1]] + 1
    for start, end in zip((low + starts * row).tolist(), (low + ends * row).tolist(), strict=True):
        _advise(start, end, "MADV_WILLNEED")


def _is_mapped(array: Array) -> bool:
    """Is it read-only and a file's? What is anybody's own memory must not be given back."""
    if array.flags.writeable or not array.size:
        return False
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base is not None


def _advise(low: int, high: int, advice: str) -> None:
    """Tell the system about the pages between two addresses."""
    if _madvise is not None and hasattr(mmap, advice):
        low -= low % mmap.PAGESIZE
        _madvise(low, high - low, getattr(mmap, advice))
