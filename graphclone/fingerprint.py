"""The fingerprint of a model in files: sha256, computed when it is asked for, or ahead of that in the background.

A model in one file has that file's sha256. With external data it is the sha256 of digests: of the model file, then of
each 64 MB of each data file, so that all cores can work on it (docs/decisions/0006).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from graphclone.errors import BadModel

SEGMENT = 1 << 26  # bytes of a data file behind one digest
READ = 1 << 22


class Fingerprint:
    """Of files as they are now: where one is changed before it was read, asking is an error."""

    def __init__(self, model: Path, data: Sequence[Path] = ()) -> None:
        self.files = (model, *data)
        self._seen = [_identity(file) for file in self.files]
        self._digests: list[bytes] = []
        self._workers: list[threading.Thread] = []
        self._failed: list[OSError] = []

    def start(self) -> None:
        """Begin in the background. Nobody waits for the threads where the answer is never asked for."""
        if self._workers:
            return
        pieces = [(0, 0, self._seen[0][0])]
        for number, (size, *_) in enumerate(self._seen[1:], 1):
            pieces += [(number, start, min(SEGMENT, size - start)) for start in range(0, size, SEGMENT)]
        self._digests = [b""] * len(pieces)
        queue = iter(enumerate(pieces))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    place, piece = next(queue, (-1, (0, 0, 0)))
                if place < 0 or self._failed:
                    return
                try:
                    self._digests[place] = self._digest(*piece)
                except OSError as reason:
                    self._failed.append(reason)

        count = min(os.cpu_count() or 1, len(pieces))
        self._workers = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for worker in self._workers:
            worker.start()

    def _digest(self, number: int, start: int, size: int) -> bytes:
        digest = hashlib.sha256()
        with self.files[number].open("rb", buffering=0) as stream:
            stream.seek(start)
            while size > 0 and (read := stream.read(min(READ, size))):
                digest.update(read)
                size -= len(read)
        return digest.digest()

    def result(self) -> str:
        """The digest in hexadecimal. Raises BadModel where a file was changed or taken away since it was opened."""
        self.start()
        for worker in self._workers:
            worker.join()
        if self._failed:
            raise BadModel(f"{self.files[0]}: cannot be read any more ({self._failed[0]})")
        for file, seen in zip(self.files, self._seen, strict=True):
            if not file.is_file() or _identity(file) != seen:
                raise BadModel(f"{file}: was changed while it was open: start again")
        if len(self.files) == 1:
            return self._digests[0].hex()
        return hashlib.sha256(b"".join(self._digests)).hexdigest()


def _identity(file: Path) -> tuple[int, ...]:
    held = file.stat()
    return held.st_size, held.st_mtime_ns, held.st_ino
