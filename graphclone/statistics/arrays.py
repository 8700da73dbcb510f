"""Reads data that already is arrays (.npz files keyed by input names), and draws random inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.errors import BadData, InvalidTarget
from graphclone.statistics.reading import Array, Asked, Reading, files_of, sha256_of

DIGITS = 12  # of a number of batches that somebody may wait for
LARGEST = 1 << 32  # bytes of one array: more is a damaged or hostile header


def open_npz(spec: str, asked: Asked) -> Reading:
    """A file, or a folder of files in order of name. More rows than the batch size are cut into several batches.

    What does not fill a batch is a smaller one; where the graph's batch axis is fixed, it is left out.
    """
    files = files_of(spec, (".npz",))

    def batches() -> Iterator[dict[str, Array]]:
        for file in files:
            yield from _cut(_fitted(load(file), asked), asked)

    def guess() -> int:
        return len(files) * sum(1 for _ in _cut(load(files[0]), asked))  # as if the others held as much as the first

    return Reading(spec, batches, lambda: sha256_of(*files, str(asked.batch_size)), guess=guess)


def load(file: Path) -> dict[str, Array]:
    """The arrays of a .npz file by name, none of them pickled. Raises BadData."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        if sizes.get(largest, 0) > LARGEST:
            raise BadData(f"{file}: {largest} claims {sizes[largest]} bytes: split the data into several files")
        with np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as reason:
        raise BadData(f"{file}: not a .npz file of plain arrays, or truncated ({reason})") from None


def _fitted(held: Mapping[str, Array], asked: Asked) -> dict[str, Array]:
    """Integers in the graph's own width, where all of them fit: who saved them had no reason to choose one."""
    return {
        name: _in_width(array, asked.known[name].dtype) if name in asked.known else array
        for name, array in held.items()
    }


def _in_width(array: Array, wanted: np.dtype[Any]) -> Array:
    if array.dtype == wanted or array.dtype.kind not in "iu" or wanted.kind not in "iu" or not array.size:
        return array
    limits = np.iinfo(wanted)
    return array.astype(wanted) if limits.min <= int(array.min()) <= int(array.max()) <= limits.max else array


def _cut(held: Mapping[str, Array], asked: Asked) -> Iterator[dict[str, Array]]:
    """Rows ``batch_size`` at a time, of every input that shares the first axis of the primary one."""
    lead = next((i for i in asked.known.values() if i.primary and i.name in held), None)
    rows = held[lead.name].shape[0] if lead is not None and held[lead.name].ndim else 0
    if lead is None or rows <= asked.batch_size:
        yield dict(held)
        return
    fixed = isinstance(lead.shape[0], int)
    along = {
        name
        for name, array in held.items()
        if name in asked.known and array.shape[:1] == (rows,) and _runs_along(asked.known[name], lead)
    }
    for start in range(0, rows - asked.batch_size + 1 if fixed else rows, asked.batch_size):
        piece = slice(start, start + asked.batch_size)
        yield {name: array[piece] if name in along else array for name, array in held.items()}


def _runs_along(given: feeds.Input, lead: feeds.Input) -> bool:
    """Whether the first axis of an input is the batch of the primary one."""
    alike = given.shape[:1] == lead.shape[:1]
    return alike or (len(given.shape) > 1 and not isinstance(given.shape[0], int))


def open_random(spec: str, asked: Asked) -> Reading:
    """``random:N``: N batches of ids drawn evenly from the vocabulary, or of normal features."""
    number = spec.partition(":")[2]
    if not number.isdecimal() or len(number) > DIGITS or int(number) < 1:
        raise InvalidTarget(f"{spec[:40]!r}: say how many batches, as in random:4")

    def at(index: int) -> dict[str, Array]:
        drawn = feeds.tiny_feeds(
            asked.model, asked.batch_size, asked.length, seed=np.random.SeedSequence([asked.seed, index])
        )
        return {name: array for name, array in drawn.items() if asked.known[name].primary}

    settings = f"random {asked.seed} {asked.batch_size} {asked.length}"
    what = f"{spec} (random inputs, not data: what they say about neurons is not to be trusted)"
    count = int(number)
    return Reading(what, lambda: map(at, range(count)), lambda: sha256_of(settings), count, at=at)
