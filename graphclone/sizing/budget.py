"""What a clone may have: parameters, bytes, seconds. Read from what people write: 50M, 100MB, 50%, 20ms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

from graphclone.errors import InvalidTarget

UNITS = {
    "params": {"": 1, "k": 1e3, "m": 1e6, "b": 1e9},
    "size": {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "latency": {"ms": 1e-3, "s": 1},
}
LOOKS = {"params": "50M or 50%", "size": "100MB or 50%", "latency": "20ms or 50%"}
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-z%]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """The most that a clone may have; a share is of the parent's. latency: of one run on the batch that is timed."""

    params: str | None = None
    size: str | None = None
    latency: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is limited."""
        return all(getattr(self, f.name) is None for f in fields(self))

    def limit(self, name: str, whole: float) -> float | None:
        """The limit in numbers, bytes or seconds, given the parent's; None where there is none.

        >>> Budget(params="50M").limit("params", 134e6), Budget(size="25%").limit("size", 400.0)
        (50000000.0, 100.0)

        Raises InvalidTarget for what is no such amount, and for more than the parent has.
        """
        given = getattr(self, name)
        if given is None:
            return None
        limit = amount(name, given, lambda: whole)
        if not 0 < limit < whole:
            raise InvalidTarget(f"{name} {given}: a clone has more than nothing and less than its parent ({whole:.6g})")
        return limit


def amount(kind: str, given: str | int, whole: Callable[[], float], said: str = "") -> float:
    """An amount of ``UNITS`` in numbers; ``whole``: the parent's, asked for where it is a share. said: the kind as
    messages name it. Raises InvalidTarget.

    >>> amount("params", "1.5k", lambda: 0.0), amount("size", "25%", lambda: 400.0)
    (1500.0, 100.0)
    """
    found = _NUMBER.fullmatch(str(given).strip())
    unit = found[2].lower() if found else ""
    if found is None or (unit != "%" and unit not in UNITS[kind]):
        raise InvalidTarget(f"{said or kind} {given!r}: write it as {LOOKS[kind]}")
    return float(found[1]) / 100 * whole() if unit == "%" else float(found[1]) * UNITS[kind][unit]


def shard_bytes(text: str) -> int:
    """The most bytes that one file of weights may have: ``2GB``, ``500 MB``, or a number. Raises InvalidTarget.

    >>> shard_bytes("1.5 kB")
    1500
    """
    found = _NUMBER.fullmatch(text.strip())
    size = float(found[1]) * UNITS["size"].get(found[2].lower(), 0) if found else 0
    if not 1 <= size < math.inf:
        raise InvalidTarget(f"{text!r} is no size such as 2GB or 500MB")
    return int(size)
