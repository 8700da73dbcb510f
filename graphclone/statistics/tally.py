"""Keeps what a measurement has summed so far, and of which batches: enough to go on from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from graphclone import feeds
from graphclone.errors import BadData, GraphCloneError
from graphclone.statistics.calibration import Source
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.portion import Portion
from graphclone.statistics.probe import Sums
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]


class Summing(Protocol):
    """What sums batches up: statistics.probe.Probe, and whatever else measures so."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Where its nodes run, as ONNX Runtime names the places."""

    def add(self, fed: Mapping[str, Array], where: str, *, unseen: bool = False) -> None:
        """Add a batch, set apart too where ``unseen``; where it raises, the sums are as before."""

    def sums(self) -> Sums:
        """All sums so far, float64, by site and statistic."""

    def start(self, sums: Sums) -> None:
        """Go on from sums of earlier batches."""


@dataclass
class Tally:
    """What a run has so far. ``fed``: sha256 of (``fed`` before, one batch), batch after batch."""

    parent: str
    probe: Summing
    settings: Mapping[str, str | int | bool]
    source: Source | None
    done: int = 0
    fed: str = ""
    providers: tuple[str, ...] = ()
    before: Portion | None = None

    @property
    def number(self) -> int:
        """Of the next batch in the source, from 1."""
        return self.done + 1 if self.source is None else self.source.shard + self.done * self.source.shards

    def go_on(self, held: Statistics | None) -> None:
        """Start with what an earlier run has. Raises BadData where it took another shard."""
        if held is None:
            return
        if len(held.data) != 1:
            raise BadData(f"the run to go on with has {len(held.data)} parts, of --engine ray or of a merge")
        (self.before,) = held.data
        asked = (1, 1) if self.source is None else (self.source.shard, self.source.shards)
        if (self.before.shard, self.before.shards) != asked:
            raise BadData(
                f"the run to go on with took shard {self.before.shard}/{self.before.shards}, this one is to take "
                f"{asked[0]}/{asked[1]}"
            )
        self.probe.start({site: dict(sums) for site, sums in held.sites.items()})
        self.done, self.fed, self.providers = held.batches, self.before.fed, held.providers

    def remaining(self, batches: Iterable[Mapping[str, Array]], known: Mapping[str, feeds.Input]) -> Iterator[Any]:
        """The batches after those that an earlier run has, which have to be the same. Raises BadData."""
        before, source = self.before, self.source
        if before is None:
            yield from batches
            return
        if source is not None and source.jumps and source.fingerprint == before.source:
            yield from source.after(before.batches)
            return
        fed, stream = "", iter(batches)
        for batch in islice(stream, before.batches):
            fed = _chained(fed, feeds.fill(known, batch))
        if fed != before.fed:
            now = source.description if source is not None else "the data"
            raise BadData(
                f"{now}: its first {before.batches} batches are not those that the run to go on with was fed ({before})"
            )
        yield from stream

    def add(self, fed: Mapping[str, Array]) -> None:
        """Count a batch that the probe has added."""
        self.fed = _chained(self.fed, fed)
        self.done += 1

    def statistics(self) -> Statistics:
        """All of it so far."""
        source = self.source
        portion = Portion(
            source=(source.fingerprint if source is not None else "") or self.fed,
            shards=source.shards if source is not None else 1,
            shard=source.shard if source is not None else 1,
            batches=self.done,
            fed=self.fed,
            described=source.description if source is not None else "",
        )
        providers = tuple(sorted({*self.providers, *self.probe.providers}))
        return Statistics(self.parent, self.probe.sums(), self.done, (portion,), providers, self.settings)

    def keep(self, checkpoint: Checkpoint) -> bool:
        """Write what is not on disk yet; whether there is anything on disk."""
        if self.done > checkpoint.batches:
            with suppress(GraphCloneError):  # what ended the run is worth more than why it cannot be kept
                checkpoint.write(self.statistics())
        return checkpoint.batches > 0

    def nothing(self) -> str:
        """Why there is no batch."""
        if self.source is None or self.source.shards == 1:
            return "there is no batch to measure: the data is empty"
        return f"{self.source.description}: shard {self.source.shard}/{self.source.shards} has no batch in it"


def _chained(before: str, fed: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(before.encode())
    for name in sorted(fed):
        digest.update(f"{name}{fed[name].dtype}{fed[name].shape}".encode())
        digest.update(np.ascontiguousarray(fed[name]).tobytes())
    return digest.hexdigest()
