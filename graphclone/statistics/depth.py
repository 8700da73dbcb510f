"""Chooses the blocks that stay: one row a way, some by place alone, some by what the probe measured of each block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy, Stack
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]
Kept = list[int]


@dataclass(frozen=True)
class Depth:
    """A way of choosing blocks. ``keep(scores, count)`` gives the places that stay, ascending.

    There is a score a block, higher where it does more: ``score`` makes it of the mean cosine between a block's entry
    and exit; None where the place alone decides (scores are zeros then).
    """

    name: str
    formula: str
    paper: str
    keep: Callable[[Array, int], Kept]
    score: Callable[[Array], Array] | None = None


def _ends(scores: Array, count: int) -> Kept:
    """Blocks are removed from the middle: the first half stays and the last half."""
    first = math.ceil(count / 2)
    return [*range(first), *range(scores.size - (count - first), scores.size)]


def _stride(scores: Array, count: int) -> Kept:
    """Evenly spaced, first and last included."""
    return [round(k * (scores.size - 1) / max(count - 1, 1)) for k in range(count)]


def _least(scores: Array, count: int) -> Kept:
    """The blocks that do least go one by one; first and last stay while anything else can go."""
    guarded = scores.copy()
    if count >= 2:
        guarded[[0, -1]] = np.inf
    order = np.argsort(-guarded, kind="stable")
    return sorted(int(k) for k in order[:count])


def _span(scores: Array, count: int) -> Kept:
    """Neighbours go together: the run of blocks whose scores add up to least, first and last block apart."""
    whole, gone = scores.size, scores.size - count
    if not gone:
        return list(range(whole))
    starts = range(1, whole - gone) if count >= 2 else range(whole - gone + 1)
    best = min(starts, key=lambda start: (float(scores[start : start + gone].sum()), start))
    return [k for k in range(whole) if not best <= k < best + gone]


def _influence(cosine: Array) -> Array:
    return 1 - cosine


def _angle(cosine: Array) -> Array:
    return np.asarray(np.arccos(np.clip(cosine, -1, 1)) / np.pi)


_SUBCLONING = "Samragh et al. 2023, arXiv 2312.09299"
_SHORTGPT = "Men et al. 2024 (ShortGPT), arXiv 2403.03853"
_GROMOV = "Gromov et al. 2024, arXiv 2403.17887; a run's distance bounded by the sum of its blocks'"
ROWS: tuple[Depth, ...] = (
    Depth("paper", "the first half and the last half", _SUBCLONING, _ends),
    Depth("uniform", "evenly spaced, first and last included", "Shleifer and Rush 2020, arXiv 2010.13002", _stride),
    Depth("block-influence", "least 1 - E[cos(entry, exit)] goes", _SHORTGPT, _least, _influence),
    Depth("angular", "the run of least arccos(E[cos(entry, exit)]) / pi goes", _GROMOV, _span, _angle),
)
DEPTHS: dict[str, Depth] = {row.name: row for row in ROWS}
MEASURE = "needs statistics: give --data or --stats (a recipe: data; Python: what measure returns)"  # of a name
BEST = "best"  # what training decided: docs/decisions/0022


def refuse_unknown(name: str) -> None:
    """Raises InvalidTarget, listing what there is."""
    if name != BEST and name not in DEPTHS:
        raise InvalidTarget(f"depth {name!r} is not one of {', '.join([BEST, *DEPTHS])}")


def settled(name: str, stack: Stack, statistics: Statistics | None, alone: bool = True) -> str:
    """``best`` as a row: by influence where the blocks were measured, by place where not. alone: the only stack."""
    refuse_unknown(name)
    if name != BEST:
        return name
    return "block-influence" if statistics is not None and not _absent(stack, statistics, alone) else "paper"


def choose(name: str, anatomy: Anatomy, stack: Stack, statistics: Statistics | None, count: int) -> Kept:
    """The places of the blocks that stay. Raises InvalidTarget for an unknown row or statistics that are missing."""
    row = DEPTHS[settled(name, stack, statistics, len(anatomy.stacks) == 1)]
    if row.score is None:
        return row.keep(np.zeros(len(stack.blocks)), count)
    if statistics is None:
        without = ", ".join(r.name for r in ROWS if r.score is None)
        raise InvalidTarget(f"depth {name} {MEASURE}, or choose one that needs none: {without}")
    return row.keep(row.score(np.array(_cosines(anatomy, stack, statistics))), count)


def influences(anatomy: Anatomy, stack: Stack, statistics: Statistics) -> list[float]:
    """1 - E[cos(entry, exit)], block after block. Raises InvalidTarget where it was not measured."""
    return [1.0 - cosine for cosine in _cosines(anatomy, stack, statistics)]


def _cosines(anatomy: Anatomy, stack: Stack, statistics: Statistics) -> Sequence[float]:
    """Mean cosine of entry and exit, block after block."""
    statistics.refuse_unfit(anatomy)
    alone = len(anatomy.stacks) == 1
    if absent := _absent(stack, statistics, alone):
        raise InvalidTarget(f"the statistics lack the block {absent[0]}: measure again, or choose blocks by place")
    return [float(statistics.mean(name, "cosine")[0]) for name in _names(stack, alone)]


def _names(stack: Stack, alone: bool) -> list[str]:
    """The blocks' sites."""
    prefix = "" if alone else f"{stack.name}."
    return [f"{prefix}blocks.{block.index}" for block in stack.blocks]


def _absent(stack: Stack, statistics: Statistics, alone: bool) -> list[str]:
    """Blocks of which nothing was measured."""
    return [name for name in _names(stack, alone) if "cosine" not in statistics.sites.get(name, {})]
