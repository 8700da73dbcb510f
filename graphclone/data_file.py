"""A file of weights as it is written: digested on the way, and past the system's cache where the system lets one.

To copy 1 GB into the system's cache and to flush it takes a processor 1.4 s, to hand it to the disk from one's own
memory 0.05 s; and the parent, of which more is to be read, keeps the cache. What Linux calls O_DIRECT wants whole
pages: the end of a file, and all of one on a file system that does not know it, goes through the cache.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

if sys.platform != "win32":
    import fcntl

BLOCK = 1 << 22  # bytes that are written at once
BLOCKS = 3  # of them: one is filled while another is written
FLUSH_EVERY = 1 << 28  # bytes in the cache after which the disk is set to work, so that little is left for the end
PAST_CACHE = getattr(os, "O_DIRECT", 0)

Array = np.ndarray[Any, Any]


class DataFile:
    """Bytes one after the other; ``digest`` is of them, and they are on the disk when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.digest = xxhash.xxh3_128()
        self._free = [np.frombuffer(mmap.mmap(-1, BLOCK), np.uint8) for _ in range(BLOCKS)]  # which begins on a page
        self._block, self._filled = self._free.pop(), 0
        self._past_cache, self._cached = bool(PAST_CACHE), 0
        self._file = open(path, "wb", buffering=0, opener=self._open)  # noqa: SIM115  closed in __exit__
        self._writer, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._writes: deque[Future[Array]] = deque()
        self._flushes: list[Future[None]] = []

    def _open(self, path: str, flags: int) -> int:
        if self._past_cache:
            try:
                return os.open(path, flags | PAST_CACHE, 0o666)
            except OSError as reason:
                if reason.errno != errno.EINVAL:
                    raise
                self._past_cache = False
        return os.open(path, flags, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._send()
                for write in self._writes:
                    write.result()
                for flush in self._flushes:
                    flush.result()
                os.fsync(self._file.fileno())
        finally:
            self._writer.shutdown(cancel_futures=True)
            self._flusher.shutdown()
            self._file.close()

    def put(self, piece: Array) -> None:
        """More bytes: uint8. They are copied, and written while others are made."""
        self.digest.update(piece.data)
        start = 0
        while start < len(piece):
            end = min(start + BLOCK - self._filled, len(piece))
            self._block[self._filled : self._filled + end - start] = piece[start:end]
            self._filled += end - start
            start = end
            if self._filled == BLOCK:
                self._send()

    def _send(self) -> None:
        self._writes.append(self._writer.submit(self._write, self._block, self._filled))
        self._block, self._filled = self._free.pop() if self._free else self._writes.popleft().result(), 0

    def _write(self, block: Array, length: int) -> Array:
        """Write so much of a block, which is free then."""
        left = block.data[:length]
        while left:
            try:
                left = left[self._file.write(left) :]
            except OSError as reason:
                if reason.errno != errno.EINVAL or not self._past_cache:
                    raise
                self._through_cache()
        if not self._past_cache:
            before, self._cached = self._cached, self._cached + length
            if before // FLUSH_EVERY != self._cached // FLUSH_EVERY:
                self._flushes.append(self._flusher.submit(os.fsync, self._file.fileno()))
        return block

    def _through_cache(self) -> None:
        self._past_cache = False
        if sys.platform != "win32":
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~PAST_CACHE)
