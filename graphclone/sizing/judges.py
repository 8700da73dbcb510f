"""What is set apart to judge by: batches that nobody measures on. Data is read as it is needed, and never held."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphclone.statistics.calibration import Source

Batch = Mapping[str, Any]

JUDGES = 2  # batches
GREEDY = "greedy"  # a depth that judging finds, and no score


def judging(source: Source) -> list[Batch]:
    """The batches that judge: the last two of five or more, else none."""
    if not _enough(source):
        return []
    last: Iterable[Batch] = source if source.batches is None else source.after(source.batches - JUDGES)
    return list(deque(last, JUDGES))


def measured(source: Source) -> Source:
    """The others, which are measured."""
    return source.but_last(JUDGES) if _enough(source) else source


def _enough(source: Source) -> bool:
    """Known, or found by reading so many: only reading tells how many batches text makes."""
    least = 2 * JUDGES + 1
    count = source.batches if source.batches is not None else sum(1 for _ in islice(source, least))
    return count >= least
