"""Estimates what a measurement would do and cost, from one batch of it (``--dry-run``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import length_hint
from typing import Any

from graphclone.statistics.calibration import Source
from graphclone.statistics.resident import peak
from graphclone.statistics.run import Run


@dataclass(frozen=True)
class Rehearsal:
    """batches: None where nobody knows; exact: whether that number is not a guess. Seconds, and bytes.

    batch_seconds: of the first batch, which also warms up. memory: the most that this process has had so far.
    passes: how often the data is read. written: size of the statistics, about. placement: how many nodes run where, 0
    where ONNX Runtime does not say.
    """

    data: str
    notes: tuple[str, ...]
    filled: Mapping[str, str]
    inputs: Mapping[str, str]
    batches: int | None
    exact: bool
    passes: int
    sites: int
    placement: Mapping[str, int]
    open_seconds: float
    batch_seconds: float
    seconds: float | None
    memory: int | None
    written: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        about = "" if self.exact else "about "
        return [
            ("data", self.data),
            *(("", note) for note in self.notes),
            *(("a batch", f"{name} {shown}") for name, shown in self.inputs.items()),
            *(("filled in", f"{name}: {rule}") for name, rule in self.filled.items()),
            ("batches", "unknown before they are read" if self.batches is None else f"{about}{self.batches:,}"),
            *([("read", f"{self.passes} times")] if self.passes > 1 else []),
            ("places", f"{self.sites:,}"),
            ("runs on", ", ".join(f"{name} ({count or 'all'} nodes)" for name, count in self.placement.items())),
            ("time", f"{self.open_seconds:.1f} s to load, {self.batch_seconds:.2f} s a batch (the first)"),
            ("in all", "unknown" if self.seconds is None else f"about {self.seconds:,.0f} s"),
            ("memory", "unknown" if self.memory is None else f"about {self.memory / 2**20:,.0f} MB"),
            ("statistics", f"{self.written / 2**20:.2f} MB"),
        ]


def rehearse(run: Run, source: Source) -> Rehearsal:
    """Open the probe of the first pass over the data and run one batch. Raises as ``run.measure`` does."""
    start = time.perf_counter()
    passes = run.passes()
    probe = run.opened(passes[0])
    opened = time.perf_counter() - start
    batch = next(iter(source))
    start = time.perf_counter()
    sums = probe.run(batch, "batch 1")
    ran = time.perf_counter() - start
    count = length_hint(source, -1)
    return Rehearsal(
        data=source.description,
        notes=source.notes,
        filled=source.filled,
        inputs={name: f"{array.dtype}{list(array.shape)}" for name, array in batch.items()},
        batches=None if count < 0 else count,
        exact=source.batches is not None,
        sites=len(sums),
        placement={name: sum(ops.values()) for name, ops in probe.session.placement.items()} or {probe.provider: 0},
        open_seconds=opened,
        batch_seconds=ran,
        passes=len(passes),
        seconds=None if count < 0 else (opened + ran * count) * len(passes),
        memory=peak(),
        written=sum(array.nbytes for held in sums.values() for array in held.values()) * len(passes),
    )
