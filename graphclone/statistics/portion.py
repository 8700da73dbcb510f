"""Records which batches of which data statistics are made of, so that none counts twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from math import gcd
from typing import Any


@dataclass(frozen=True, order=True)
class Portion:
    """Batches shard-1, shard-1+shards, ... of a source, ``batches`` of them.

    source: sha256 of the data and how it is cut into batches; of ``fed`` where only reading it tells. fed: sha256 over
    what the graph was fed, batch after batch. described: the source in words.
    """

    source: str
    shards: int
    shard: int
    batches: int
    fed: str
    described: str = ""

    def __str__(self) -> str:
        part = f", shard {self.shard}/{self.shards}" if self.shards > 1 else ""
        return f"{self.described or 'data'} (sha256 {self.source[:12]}{part}, {self.batches} batches)"

    def overlaps(self, other: Portion) -> bool:
        """Whether a batch is in both.

        >>> first = Portion("ab", 4, 1, 5, "x")   # 0 4 8 12 16
        >>> [first.overlaps(Portion("ab", 6, shard, 3, "y")) for shard in (1, 2, 3, 5)]   # 0 6 12, 1 7 13, 2 8 14, 4 10
        [True, False, True, True]
        """
        if self.fed == other.fed:
            return True
        return self.source == other.source and _meet(self.numbers, other.numbers)

    @property
    def numbers(self) -> range:
        """Numbers of its batches in the source, from 0."""
        return range(self.shard - 1, self.shard - 1 + self.batches * self.shards, self.shards)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: object) -> Portion:
        """The inverse of ``as_dict``. Raises ValueError for anything else."""
        kinds: dict[str, type] = {f.name: str if f.name in ("source", "fed", "described") else int for f in fields(cls)}
        if not isinstance(held, dict) or {name: type(value) for name, value in held.items()} != kinds:
            raise ValueError(f"data: {held!r:.100}")
        if not 1 <= held["shard"] <= held["shards"] or held["batches"] < 0:
            raise ValueError(f"data: shard {held['shard']}/{held['shards']}, {held['batches']} batches")
        return cls(**held)


def _meet(one: range, other: range) -> bool:
    """Whether two ranges of positive step share a number (Chinese remainder theorem)."""
    if not one or not other:
        return False
    divisor = gcd(one.step, other.step)
    apart = other.start - one.start
    if apart % divisor:
        return False
    step = other.step // divisor
    inverse = pow(one.step // divisor, -1, step) if step > 1 else 0
    common = one.start + one.step * ((apart // divisor * inverse) % step)  # the smallest from one.start on
    period = one.step * step
    if common < other.start:
        common += -(-(other.start - common) // period) * period
    return common <= min(one[-1], other[-1])


def joined(portions: Iterable[Portion]) -> tuple[Portion, ...]:
    """In order; where all shards of a source are there, they are the source."""
    families: dict[tuple[str, int, str], list[Portion]] = defaultdict(list)
    for portion in sorted(portions):
        families[portion.source, portion.shards, portion.described].append(portion)
    made: list[Portion] = []
    for (source, shards, described), held in families.items():
        sizes = [portion.batches for portion in held]
        # a run that stopped early leaves gaps: then the shards are not the whole
        whole = [p.shard for p in held] == list(range(1, shards + 1)) and sizes == _even(sum(sizes), shards)
        if whole and shards > 1:
            fed = sha256("".join(portion.fed for portion in held).encode()).hexdigest()
            made.append(Portion(source, 1, 1, sum(sizes), fed, described))
        else:
            made += held
    return tuple(sorted(made))


def _even(total: int, shards: int) -> list[int]:
    return [len(range(first, total, shards)) for first in range(shards)]
