"""Images, or other inputs, with the number of their class: from folders' names, or from ``labels`` in .npz files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.pytorch.training.batches import Array, rowed, rows_of
from graphclone.pytorch.training.examples import LABELS
from graphclone.statistics import arrays
from graphclone.statistics.calibration import Source, open_source
from graphclone.statistics.reading import files_of, sha256_of

NPZ = ".npz"


@dataclass(frozen=True)
class Folders:
    """A folder a class, in order of name. Batches take one row of each class in turn until the classes are used up."""

    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    rows: int
    whole: bool  # the graph fixes the batch: the last one is left out where it is not full
    limit: int | None = None  # batches

    @property
    def fingerprint(self) -> str:
        """sha256 of what is read."""
        return sha256_of(*self.classes, *(source.fingerprint for source in self.sources), str(self.rows))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return islice(self._batches(), self.limit)

    def _batches(self) -> Iterator[dict[str, Array]]:
        stream = self._turns()
        while held := list(islice(stream, self.rows)):
            if len(held) < self.rows and self.whole:
                return
            first, along = held[0][1], rowed(held[0][1])
            batch = {n: np.concatenate([row[n] for _, row in held]) if n in along else first[n] for n in first}
            yield batch | {LABELS: np.array([label for label, _ in held], np.int64)}

    def _turns(self) -> Iterator[tuple[int, dict[str, Array]]]:
        open_ = {label: _rows(source) for label, source in enumerate(self.sources)}
        while open_:
            for label in list(open_):
                row = next(open_[label], None)
                if row is None:
                    del open_[label]
                else:
                    yield label, row


@dataclass(frozen=True)
class Arrays:
    """.npz files with ``labels`` beside the graph's inputs."""

    files: tuple[Path, ...]
    known: Mapping[str, feeds.Input]
    rows: int
    whole: bool
    limit: int | None = None

    @property
    def fingerprint(self) -> str:
        """sha256 of what is read."""
        return sha256_of(*self.files, str(self.rows))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return islice(self._batches(), self.limit)

    def _batches(self) -> Iterator[dict[str, Array]]:
        for file in self.files:
            held = arrays.load(file)
            labels = held.pop(LABELS, None)
            if labels is None or labels.ndim != 1 or len(labels) != rows_of(held):
                found = "none" if labels is None else f"of shape {list(labels.shape)}"
                raise BadData(f"{file}: needs {LABELS}, one class number a row; there is {found}")
            for start in range(0, len(labels), self.rows):
                piece = slice(start, start + self.rows)
                if self.whole and len(labels[piece]) < self.rows:
                    break
                batch = {
                    name: array[piece] if array.ndim and len(array) == len(labels) else array
                    for name, array in held.items()
                }
                yield feeds.fill(self.known, batch, f"{file}: rows from {start}") | {LABELS: labels[piece]}


def open_labelled(
    spec: str | Path, model: Model, *, batch_size: int = 8, images: str | None = None, limit: int | None = None
) -> Folders | Arrays:
    """A folder of class folders, or .npz files. ``images``: how pixels are made, as for `measure`. Raises BadData."""
    known = feeds.inputs(model)
    fixed = next((i.shape[0] for i in known.values() if i.primary and i.shape), None)
    rows, whole = (fixed, True) if isinstance(fixed, int) else (batch_size, False)
    folder = Path(spec)
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if below:
        settings: dict[str, Any] = {"batch_size": 1 if not whole else rows, "images": images}
        sources = tuple(open_source(str(path), model, **settings) for path in below)
        return Folders(tuple(path.name for path in below), sources, rows, whole, limit)
    files = tuple(files_of(str(spec), (NPZ,)))
    if not files or any(file.suffix.lower() != NPZ for file in files):
        raise BadData(f"{spec}: classes are told by folders (one each, with its images in it) or by .npz with {LABELS}")
    return Arrays(files, known, rows, whole, limit)


def _rows(source: Source) -> Iterator[dict[str, Array]]:
    for batch in source:
        along = rowed(batch)
        for row in range(rows_of(batch)):
            yield {name: array[row : row + 1] if name in along else array for name, array in batch.items()}
