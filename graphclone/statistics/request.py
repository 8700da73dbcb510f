"""Holds the command line's options for data; nothing heavy is imported before data is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.statistics.calibration import Source
    from graphclone.statistics.checkpoint import Checkpoint
    from graphclone.statistics.rehearsal import Rehearsal
    from graphclone.statistics.store import Statistics

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Calibration:
    """Where calibration batches come from and where they run; ``data`` as in statistics.calibration."""

    data: str
    tokenizer: str | None = None
    length: int = 128
    batch_size: int = 8
    limit: int | None = None
    seed: int = 0
    provider: str = "auto"
    threads: int | None = None
    column: str | None = None
    images: str | None = None
    shard: tuple[int, int] = (1, 1)
    mask: str | None = None
    moments: bool = False

    def everywhere(self) -> Calibration:
        """The same by absolute paths, as other processes need them."""
        tokenizer, images = (None if spec is None else _absolute(spec) for spec in (self.tokenizer, self.images))
        return replace(self, data=_absolute(self.data), tokenizer=tokenizer, images=images)


@dataclass(frozen=True)
class Cluster:
    """address: of a Ray cluster; None starts one here. workers: actors; None: as many as there is room for."""

    address: str | None = None
    workers: int | None = None


def _absolute(spec: str) -> str:
    file, colon, function = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    return f"{Path(file).resolve()}{colon}{function}" if Path(file).exists() else spec


def calibrate(
    model: Model,
    anatomy: Anatomy,
    asked: Calibration,
    progress: Progress | None = None,
    *,
    source: Source | None = None,
    checkpoint: Checkpoint | None = None,
    cluster: Cluster | None = None,
) -> Statistics:
    """Measure on the data that ``asked`` names, or on ``source``, which is that data opened. Raises BadData.

    cluster: where Ray's actors do it, and not this process.
    """
    from graphclone.statistics import run

    opened = source if source is not None else open_data(model, asked)
    if cluster is not None:
        from graphclone.statistics import distributed

        return distributed.measure(model, asked, opened, cluster, progress=progress, checkpoint=checkpoint)
    return run.measure(
        model,
        anatomy,
        opened,
        provider=asked.provider,
        threads=asked.threads,
        progress=progress,
        checkpoint=checkpoint,
        mask=asked.mask,
        moments=asked.moments,
    )


def open_data(model: Model, asked: Calibration) -> Source:
    """The batches that ``asked`` names, fitted to the model's inputs. Raises BadData."""
    from graphclone.statistics import calibration

    return calibration.open_source(
        asked.data,
        model,
        tokenizer=asked.tokenizer,
        length=asked.length,
        batch_size=asked.batch_size,
        limit=asked.limit,
        seed=asked.seed,
        column=asked.column,
        images=asked.images,
        shard=asked.shard,
    )


def checkpoint(output: str | Path | None, *, every: int | None = None, resume: bool = False) -> Checkpoint:
    """Where a run that is to write ``output`` keeps what it has so far. Raises InvalidTarget, BadData."""
    from graphclone.statistics.checkpoint import Checkpoint

    return Checkpoint.beside(Path(output or ""), every=every, resume=resume)


def rehearse(model: Model, anatomy: Anatomy, asked: Calibration) -> Rehearsal:
    """What measuring would do, and what it would cost, from one batch. Raises BadData."""
    from graphclone.statistics.rehearsal import rehearse as one_batch
    from graphclone.statistics.run import Run

    run = Run(model, anatomy, asked.provider, asked.threads, asked.mask, asked.moments)
    return one_batch(run, open_data(model, asked))
