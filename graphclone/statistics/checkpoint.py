"""Saves the sums of a measurement that ends early, so that another run goes on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from graphclone import outputs
from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.statistics.store import Statistics

EVERY_SECONDS = 60.0
SHARE = 20  # of the time, at most one part in so many goes into writing: second moments may be a gigabyte


@dataclass
class Checkpoint:
    """Where a run keeps what it has so far. every: batches between two writes; None: EVERY_SECONDS pass, or more where
    writing takes long.

    The sums on disk are the run's own float64 sums after so many batches: going on from there adds the same numbers in
    the same order as a run that was never stopped.
    """

    path: Path
    every: int | None = None
    resume: bool = False
    batches: int = 0  # of this run's portion that are on disk
    _written: float = field(default_factory=time.monotonic)
    _took: float = 0.0

    @classmethod
    def beside(cls, output: Path, *, every: int | None = None, resume: bool = False) -> Checkpoint:
        """``<output>.partial``. Raises InvalidTarget where one is there that nobody asked to go on with.

        Raises BadModel where the output cannot be written: before a long run, not after it.
        """
        outputs.refuse_unwritable(output)
        made = cls(output.with_name(f"{output.name}.partial"), every, resume)
        if made.path.exists() and not resume:
            raise InvalidTarget(f"{made.path} is there, of a run that did not end: go on with --resume, or remove it")
        return made

    def held(self, parent: str, settings: Mapping[str, str | int | bool] | None) -> Statistics | None:
        """What is on disk to go on with. Raises BadData where it is of another parent or other settings than these."""
        if not self.resume or not self.path.exists():
            return None
        found = Statistics.read(self.path)
        try:
            found.refuse_unlike(parent, found.settings if settings is None else settings)
        except BadData as reason:
            raise BadData(f"{self.path} cannot be gone on with: {reason}") from None
        self.batches = found.batches
        return found

    def another(self, number: int) -> Checkpoint:
        """Of a further run over the same data, beside this one."""
        return Checkpoint(self.path.with_name(f"{self.path.name}.{number}"), self.every, self.resume)

    def due(self, done: int) -> bool:
        """Whether it is time to write."""
        if self.every is not None:
            return done - self.batches >= self.every
        return time.monotonic() - self._written >= max(EVERY_SECONDS, SHARE * self._took)

    def write(self, held: Statistics) -> None:
        """Keep what there is so far, atomically."""
        start = time.monotonic()
        held.save(self.path)
        self.batches, self._written = held.batches, time.monotonic()
        self._took = self._written - start

    @contextmanager
    def until_written(self, held: Statistics) -> Iterator[None]:
        """While the result is written: where that fails (a full disk), it is kept here; else this is removed."""
        try:
            yield
        except GraphCloneError as reason:
            with suppress(GraphCloneError):  # why the result cannot be written is worth more
                if self.batches < held.batches:
                    self.write(held)
            if not self.batches:
                raise
            kept = f"the first {self.batches} batches are kept in {self.path}, --resume goes on from there"
            raise type(reason)(f"{reason} ({kept})") from None
        self.remove()

    def remove(self) -> None:
        """The run is over and its result is where it belongs."""
        self.path.unlink(missing_ok=True)
