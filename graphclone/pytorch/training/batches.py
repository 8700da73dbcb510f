"""The order of the batches: endless, shuffled by seed, the same again from any position, shared among processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from graphclone.errors import BadData

Array = np.ndarray[Any, Any]
Batch = Mapping[str, Any]


@dataclass
class Stream:
    """Batches without end, in passes over the data. ``length``: batches in a pass, None before one has ended.

    shuffle: batches held at once to draw rows from, anew in each pass; 0 keeps the order of the data.
    """

    batches: Iterable[Batch]
    shuffle: int = 0
    seed: int = 0
    length: int | None = None
    taken: int = field(default=0, init=False)

    def starting_at(self, position: int) -> Iterator[Batch]:
        """The batches from the one at ``position`` on, counted from 0 over all passes."""
        number, skip = divmod(position, self.length) if self.length else (0, position)
        self.taken = position
        while True:
            count = 0
            for batch in self._pass(number):
                count += 1
                if skip:
                    skip -= 1
                    continue
                self.taken += 1
                yield batch
            if not count:
                raise BadData("no batch to train on (a generator is used up after one pass: give a list)")
            self.length = count
            number += 1

    def _pass(self, number: int) -> Iterator[Batch]:
        if not self.shuffle:
            yield from self.batches
            return
        generator = np.random.default_rng([self.seed, number])
        stream = iter(self.batches)
        while held := list(islice(stream, self.shuffle)):
            yield from _mixed(held, generator)


def hold_out(source: Iterable[Batch], count: int) -> tuple[list[Batch], Iterable[Batch]]:
    """The first ``count`` batches, and all the others, read anew at each iteration."""
    return list(islice(source, count)), _Rest(source, count)


@dataclass(frozen=True)
class _Rest:
    source: Iterable[Batch]
    skipped: int

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.source, self.skipped, None)


def rows_of(batch: Batch) -> int:
    """Rows of a batch: the first axis of its first array that has one."""
    return next((len(array) for array in batch.values() if np.ndim(array)), 1)


def rowed(batch: Batch) -> list[str]:
    """Names of the arrays with one entry a row; the others belong to the batch as a whole."""
    rows = rows_of(batch)
    return [name for name, array in batch.items() if np.ndim(array) and len(array) == rows]


def _mixed(held: Sequence[Batch], generator: np.random.Generator) -> Iterator[Batch]:
    """The same rows in batches of the same size, in an order that is drawn; whole batches where shapes differ."""
    first = held[0]
    along = rowed(first)
    alike = all(_form(batch, along) == _form(first, along) for batch in held)
    if not alike:
        yield from (held[i] for i in generator.permutation(len(held)))
        return
    together = {name: np.concatenate([np.asarray(batch[name]) for batch in held]) for name in along}
    order, size = generator.permutation(rows_of(together)), rows_of(first)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield {name: together[name][chosen] if name in together else array for name, array in first.items()}


def _form(batch: Batch, along: Sequence[str]) -> list[Any]:
    """What has to be equal for rows of two batches to be exchanged."""
    shared = {name: np.asarray(array).tobytes() for name, array in batch.items() if name not in along}
    return [{name: np.shape(batch[name])[1:] for name in along if name in batch}, shared]


def share(rows: int, process: int, processes: int) -> slice:
    """The rows of one process: even shares in order; the first row where there are fewer rows than processes."""
    bounds = [rows * k // processes for k in range(processes + 1)]
    start, stop = bounds[process], bounds[process + 1]
    return slice(start, stop) if stop > start else slice(0, 1)


def holds_rows(rows: int, process: int, processes: int) -> bool:
    """Whether the share of a process is its own."""
    return rows * (process + 1) // processes > rows * process // processes
