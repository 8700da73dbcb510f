"""What is set apart to judge by: batches that nobody measures on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Batch = Mapping[str, Any]

JUDGES = 2  # batches
GREEDY = "greedy"  # a depth that judging finds, and no score


def apart(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """(those that judge, those that are measured): the last two of five or more judge, and are not measured."""
    held = list(batches)
    count = JUDGES if len(held) > 2 * JUDGES else 0
    return held[len(held) - count :], held[: len(held) - count]
