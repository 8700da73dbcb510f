"""The fingerprint of a model in files: sha256, computed when it is asked for, or ahead of that in the background.

A model in one file has that file's sha256. With external data it is the sha256 of digests: of the model file, then the
xxh3-128 of each 64 MB of each data file, read as fast as the disk gives it, by all cores and from the end: what
is read next, from the beginning, is then still in the system's cache (docs/decisions/0006). That of a large model is
noted in the user's cache, by the files' paths, sizes, times and inodes, and is read again where any of these changed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from graphclone.errors import BadModel

NOTED_ABOVE = 1 << 30  # bytes of files whose fingerprint is noted
WORKERS = 4  # at least: reading waits for the disk
SEGMENT = 1 << 26  # bytes of a data file behind one digest
READ = 1 << 23
WARMED = 3 << 30  # bytes from the data's beginning that are read while the graph is planned and cut
ASKED = 1 << 20  # of them at a time: the system reads little more for one request


class Fingerprint:
    """Of files as they are now: where one is changed before it was read, asking is an error."""

    def __init__(self, model: Path, data: Sequence[Path] = ()) -> None:
        self.files = (model, *data)
        self._seen = [_identity(file) for file in self.files]
        self._digests: list[bytes] = []
        self._workers: list[threading.Thread] = []
        self._failed: list[OSError] = []
        self._noted = self._recall()

    @property
    def _note(self) -> Path:
        """Where the fingerprint of these files, as they are, is noted."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        places = [(str(file.resolve()), *seen) for file, seen in zip(self.files, self._seen, strict=True)]
        return Path(home, "graphclone", "fingerprints", hashlib.sha256(repr(places).encode()).hexdigest())

    def _recall(self) -> str | None:
        if sum(seen[0] for seen in self._seen) < NOTED_ABOVE:
            return None
        with suppress(OSError, ValueError, RuntimeError):  # no home, or nothing noted
            held = self._note.read_text()
            return held if len(held) == 64 and int(held, 16) >= 0 else None
        return None

    def _remember(self, digest: str) -> str:
        if sum(seen[0] for seen in self._seen) >= NOTED_ABOVE:
            with suppress(OSError, RuntimeError):
                self._note.parent.mkdir(parents=True, exist_ok=True)
                draft = self._note.with_suffix(f".{os.getpid()}")
                draft.write_text(digest)
                draft.replace(self._note)
        return digest

    def prepare(self) -> None:
        """Begin in the background. Where it is noted, nothing has to be read for it: let the disk read the beginning of
        the data meanwhile, as surgery will."""
        if self._noted:
            threading.Thread(target=self._warm, daemon=True).start()
        else:
            self.start()

    def _warm(self) -> None:
        left = WARMED
        for file in self.files[1:] or self.files:
            with suppress(OSError, AttributeError), file.open("rb", buffering=0) as stream:
                until = min(left, os.fstat(stream.fileno()).st_size)
                left -= until
                for start in range(0, until, ASKED):
                    os.posix_fadvise(stream.fileno(), start, ASKED, os.POSIX_FADV_WILLNEED)

    def start(self) -> None:
        """Begin in the background. Nobody waits for the threads where the answer is never asked for."""
        if self._workers or self._noted:
            return
        pieces = [(0, 0, self._seen[0][0])]
        for number, (size, *_) in enumerate(self._seen[1:], 1):
            pieces += [(number, start, min(SEGMENT, size - start)) for start in range(0, size, SEGMENT)]
        self._digests = [b""] * len(pieces)
        queue = deque(enumerate(pieces))

        def work() -> None:
            while queue and not self._failed:
                try:
                    place, piece = queue.pop()
                    self._digests[place] = self._digest(*piece)
                except IndexError:
                    return
                except OSError as reason:
                    self._failed.append(reason)

        count = min(max(os.cpu_count() or 1, WORKERS), len(pieces))
        self._workers = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for worker in self._workers:
            worker.start()

    def _digest(self, number: int, start: int, size: int) -> bytes:
        digest = xxhash.xxh3_128() if number else hashlib.sha256()
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
        if self._noted:
            return self._noted
        if len(self.files) == 1:
            return self._remember(self._digests[0].hex())
        return self._remember(hashlib.sha256(b"".join(self._digests)).hexdigest())


def _identity(file: Path) -> tuple[int, ...]:
    held = file.stat()
    return held.st_size, held.st_mtime_ns, held.st_ctime_ns, held.st_ino
