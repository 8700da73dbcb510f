"""Greedy depth: of the blocks that do least, the one whose removal costs least goes, and again, each time judged.

A block's influence (1 - cosine of entry and exit) says which are worth a try; what a clone without them loses decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.sizing.scoring import Judge
from graphclone.statistics.depth import influences
from graphclone.statistics.store import Statistics
from graphclone.surgery.operate import clone
from graphclone.target import Target

Array = np.ndarray[Any, Any]
TRIED = 8  # blocks tried for each that goes
Say = Callable[[str], None]


def greedy(
    model: Model,
    anatomy: Anatomy,
    statistics: Statistics,
    held_out: Iterable[Mapping[str, Array]],
    layers: int,
    say: Say = lambda text: None,
    mask: str | None = None,
) -> tuple[int, ...]:
    """The blocks that stay, ascending; ``layers`` of them. (N - layers) x 8 clones are made and run on ``held_out``.
    ``mask``: the input that says which positions count.

    Raises InvalidTarget for several stacks, no data, or a number of layers out of reach.
    """
    refuse(anatomy, Target(layers=layers))
    (stack,) = anatomy.stacks
    if not 1 <= layers <= len(stack.blocks):
        raise InvalidTarget(f"layers {layers}: {stack.name} has {len(stack.blocks)} and can have 1 to that")
    batches = list(held_out)
    if not batches:
        raise InvalidTarget("depth greedy judges on data that was not measured: give --data")
    judge = Judge(model, batches, mask)
    influence = influences(anatomy, stack, statistics)
    kept = [block.index for block in stack.blocks]
    while len(kept) > layers:
        tried = sorted(kept, key=lambda index: influence[index])[:TRIED]
        scores = {
            index: _without(model, anatomy, judge, {*range(len(stack.blocks))} - {*kept} | {index}) for index in tried
        }
        worst = min(scores, key=lambda index: (scores[index], index))
        kept.remove(worst)
        say(f"block {worst} goes: {judge.unit} {scores[worst]:.3g} with {len(kept)} blocks")
    return tuple(kept)


def refuse(anatomy: Anatomy, target: Target) -> None:
    """Raises InvalidTarget where blocks cannot go one by one, whatever is measured."""
    if len(anatomy.stacks) != 1:
        raise InvalidTarget(f"depth greedy is for one stack of blocks, this model has {len(anatomy.stacks)}")
    if target.layers is None or target.deeper:
        raise InvalidTarget("depth greedy drops blocks one by one, to a number of them: give layers, and not deeper")


def _without(model: Model, anatomy: Anatomy, judge: Judge, dropped: set[int]) -> float:
    plan = Plan(anatomy.fingerprint, {}, {anatomy.stacks[0].name: tuple(sorted(dropped))}, method="none")
    return judge.score(clone(model, anatomy, plan))
