"""Calibration data behind one interface: an iterable of batches that fit the graph's inputs.

``open_source`` picks a row of ``KINDS`` (kinds.py) by what it is given and what the graph takes. Each row reads;
filling auxiliary inputs, checking and counting are the same for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from sys import maxsize
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics import positions
from graphclone.statistics.kinds import KINDS, chosen, passed_over
from graphclone.statistics.reading import Asked, Reading

Array = np.ndarray[Any, Any]
MOST_SHARDS = 1 << 31
LENGTH = 128  # tokens of a sequence, where nobody says
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class Source:
    """Batches of data that fit the model's inputs, read anew at each iteration (a generator: once).

    description: what it is, in a line. fingerprint: sha256 of what is read, "" where unknown. filled: auxiliary inputs
    that the data does not have, and what they are filled with. batches: how many there are, None where only reading
    tells. shard, shards: it gives the batches shard-1, shard-1+shards, ... of all. notes: lines for people.
    """

    description: str
    fingerprint: str
    batches: int | None
    filled: Mapping[str, str]
    _known: Mapping[str, feeds.Input] = field(repr=False)
    _read: Callable[[], Iterator[Batch]] = field(repr=False)
    _at: Callable[[int], Batch] | None = field(default=None, repr=False)
    _guess: int | None = field(default=None, repr=False)
    _all: int | None = field(default=None, repr=False)  # batches of all shards together
    shard: int = 1
    shards: int = 1
    notes: tuple[str, ...] = ()

    @property
    def jumps(self) -> bool:
        """Whether a batch can be had without reading those before it."""
        return self._at is not None and self._all is not None

    def part(self, shard: int, shards: int) -> Source:
        """Every ``shards``-th batch, from number ``shard`` (from 1) on. Raises InvalidTarget for 0/4 or 5/4."""
        if not 1 <= shard <= shards:
            raise InvalidTarget(f"shard {shard}/{shards}: the first is 1/{max(shards, 1)}")
        if shards > MOST_SHARDS:
            raise InvalidTarget(f"shard {shard}/{shards}: no data has so many batches")
        assert self.shards == 1, "a shard of a shard"
        batches, guess = (None if n is None else len(range(shard - 1, n, shards)) for n in (self.batches, self._guess))
        return replace(self, batches=batches, _guess=guess, _all=self.batches, shard=shard, shards=shards)

    def but_last(self, count: int) -> Source:
        """Without its last ``count`` batches, of which so many are held while it is read."""
        assert self.shards == 1, "of a shard, the last batches are others than those of the whole"
        fewer = (None if n is None else max(n - count, 0) for n in (self.batches, self._guess, self._all))
        batches, guess, whole = fewer
        return replace(self, batches=batches, _guess=guess, _all=whole, _read=lambda: _but_last(self._read(), count))

    def after(self, count: int) -> Iterator[dict[str, Array]]:
        """Its batches without the first ``count``."""
        first = self.shard - 1 + count * self.shards
        if self._at is not None and self._all is not None:
            numbers = range(first, self._all, self.shards)
            held: Iterator[Batch] = map(self._at, numbers)
        else:
            held = islice(self._read(), first, None, self.shards)
        for number, batch in enumerate(held):
            yield feeds.fill(
                self._known, batch, f"{self.description}: batch {self.shard + (count + number) * self.shards}"
            )

    def lines(self) -> list[str]:
        """What it is and what is filled in, for people."""
        part = f", shard {self.shard}/{self.shards}" if self.shards > 1 else ""
        return [
            f"{self.description}{part}",
            *self.notes,
            *(f"{name} is filled in: {rule}" for name, rule in self.filled.items()),
        ]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self.after(0)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError(f"{self.description}: its number of batches is known once it has been read")
        return self.batches

    def __length_hint__(self) -> int:
        guess = self._guess if self.batches is None else self.batches
        return NotImplemented if guess is None else guess


def _but_last(stream: Iterator[Batch], count: int) -> Iterator[Batch]:
    ahead: deque[Batch] = deque()
    for batch in stream:
        ahead.append(batch)
        if len(ahead) > count:
            yield ahead.popleft()


def open_source(
    spec: str | Path | Iterable[Batch],
    model: Model,
    *,
    tokenizer: str | Path | None = None,
    length: int = LENGTH,
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
    column: str | None = None,
    images: str | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Source:
    """Data for a model: any iterable of batches (input name -> array), or the name of data of one of KINDS.

    Text needs a tokenizer.json: ``tokenizer``, or one beside the model. It is packed into windows of ``length`` tokens,
    ``batch_size`` a batch; fixed axes of the graph win over both, and fewer positions over a length of 128. limit: at
    most so many batches. seed: of random:N. column: the field of records that holds text. images: their recipe (see
    ``recipe.find``). shard: which part of the batches, and of how many.

    Gives an iterable of batches, each a mapping from input names to arrays. The first one is read at once, so that what
    does not fit is said before anything runs. Raises BadData for data that is missing, empty or does not fit the graph,
    InvalidTarget for numbers below 1 and a shard or an image recipe that is none.
    """
    if length < 1 or batch_size < 1 or (limit is not None and limit < 1):
        raise InvalidTarget(f"length {length}, batch size {batch_size} and limit {limit} have to be 1 or more")
    limit = None if limit is None else min(limit, maxsize)  # what is beyond that limits nothing
    known = feeds.inputs(model)
    asked = Asked(
        model=model,
        known=known,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        length=_fixed(known, 1) or length,
        batch_size=_fixed(known, 0) or batch_size,
        seed=seed,
        column=column,
        images=images,
    )
    reading = _reading(str(spec), asked) if isinstance(spec, str | Path) else _iterable(spec)
    stream = reading.batches() if limit is None else islice(reading.batches(), limit)
    first = next(stream, None)
    if first is None:
        raise BadData(f"{reading.description}: it is empty")
    feeds.fill(known, first, f"{reading.description}: batch 1")
    filled = {name: given.role.rule for name, given in known.items() if name not in first}
    count, guess = (_least(held, limit) for held in (reading.count, reading.guess()))

    def again() -> Iterator[Batch]:
        if reading.once:
            return chain([first], stream)
        return islice(reading.batches(), limit)

    said, at = reading.description, reading.at
    whole = Source(said, reading.fingerprint(), count, filled, known, again, at, guess, count, notes=reading.notes)
    return whole.part(*shard)


def _least(count: int | None, limit: int | None) -> int | None:
    return count if count is None or limit is None else min(count, limit)


def _fixed(known: Mapping[str, feeds.Input], axis: int) -> int | None:
    """The size that the graph's token input fixes along an axis (for the batch: any primary input), if it does."""
    for given in known.values():
        if given.primary and (axis == 0 or given.role.name == "tokens") and len(given.shape) > 1:
            size = given.shape[axis]
            return size if isinstance(size, int) else None
    return None


def _reading(spec: str, asked: Asked) -> Reading:
    kind = chosen(spec, asked.known)
    if kind is None:
        exists = "cannot be told from its name" if Path(spec).exists() else "there is no such file"
        raise BadData(f"{spec}: {exists}; data is {'; '.join(row.looks_like for row in KINDS)}")
    notes: tuple[str, ...] = ()
    if "length" in kind.takes and _fixed(asked.known, 1) is None:
        asked, notes = _within_positions(asked)
    reading = kind.open(spec, asked)
    return replace(reading, notes=(*reading.notes, *notes, *passed_over(spec, kind)))


def _within_positions(asked: Asked) -> tuple[Asked, tuple[str, ...]]:
    """The default length gives way to fewer positions; another that is beyond them is refused."""
    count = positions.most(asked.model, asked.length)
    if count is None:
        return asked, ()
    if asked.length != LENGTH:
        raise BadData(f"length {asked.length}: the model has {count} positions: --length {count} at most")
    return replace(asked, length=count), (f"sequences of {count} tokens, as the model has no more positions",)


def _iterable(held: Iterable[Batch]) -> Reading:
    if isinstance(held, Mapping) or not isinstance(held, Iterable):
        raise BadData(f"data is a path or an iterable of batches, not one {type(held).__name__}: put it in a list")
    count = len(held) if isinstance(held, Sized) else None
    return Reading(type(held).__name__, lambda: iter(held), lambda: "", count, once=isinstance(held, Iterator))
