"""Types between ``open_source`` and the kinds of data: what one is asked for, and the batches it answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphclone.errors import BadData
from graphclone.feeds import Input
from graphclone.graph import Model

Array = np.ndarray[Any, Any]
WHOLE = 1 << 30  # bytes of data up to which all of them are hashed: a second or two


@dataclass(frozen=True)
class Asked:
    """The model that the data is for, and how it is to be cut into batches."""

    model: Model
    known: Mapping[str, Input]
    tokenizer: Path | None
    length: int
    batch_size: int
    seed: int
    column: str | None = None  # of records
    images: str | None = None  # the recipe for them


@dataclass(frozen=True)
class Reading:
    """``batches`` starts over at each call, unless ``once``. fingerprint: sha256 of what is read, "" where unknown.

    count: how many batches there are; at: the batch of a number from 0, where it can be had without those before it.
    guess: about how many, where only reading tells. notes: what a person should know about it, a line each.
    """

    description: str
    batches: Callable[[], Iterator[Mapping[str, Array]]]
    fingerprint: Callable[[], str]
    count: int | None = None
    once: bool = False
    at: Callable[[int], Mapping[str, Array]] | None = None
    guess: Callable[[], int | None] = lambda: None
    notes: tuple[str, ...] = ()


def ends(file: Path, suffixes: Sequence[str]) -> bool:
    """Whether a name ends so, in whatever case."""
    return file.name.lower().endswith(tuple(suffixes))


def files_of(spec: str, suffixes: Sequence[str]) -> list[Path]:
    """The file, or the files of a folder in order of name."""
    path = Path(spec)
    if path.is_dir():
        return sorted(f for f in path.iterdir() if ends(f, suffixes) and f.is_file())
    if not path.is_file():
        raise BadData(f"{spec}: there is no such file")
    return [path]


def sha256_of(*parts: Path | str) -> str:
    """Digest of files (their bytes; of a lot of data their names, sizes and beginnings) and settings, in order."""
    digest = hashlib.sha256()
    whole = sum(part.stat().st_size for part in parts if isinstance(part, Path) and part.is_file()) <= WHOLE
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
            continue
        try:
            with part.open("rb") as stream:
                if not whole:
                    digest.update(f"{part.name} {part.stat().st_size}".encode())
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    if not whole:
                        break
        except OSError as reason:
            raise BadData(f"{part}: cannot be read ({reason.strerror})") from None
    return digest.hexdigest()
