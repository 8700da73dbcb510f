"""What the curves of an experiment come to: per arm its tuned settings, its speed-ups with intervals, its last loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speedup import curves, runs
from benchmarks.speedup.arithmetic import Crossing, Interval, crossing, interval, ratio
from benchmarks.speedup.arms import ARMS, Arm
from benchmarks.speedup.config import Config
from benchmarks.speedup.curves import Curve, Key
from benchmarks.speedup.training import stable

PAPER = "paper"
PAPERS = (PAPER, "paper-long")  # one method, tuned for a short run and for a long one


@dataclass(frozen=True)
class Finding:
    """An arm. curves: by seed; before: held-out loss of the start. random, paper: how many times sooner than a start
    from nothing is at the loss that it ends with after B steps, and than the paper's clone is at the loss that it ends
    with; None where too little has run. ``early``: than the paper's clone at the loss of the start from nothing. Of the
    rows of PAPERS the one that ends lower, and the one that is there sooner."""

    arm: Arm
    rate: float
    decay: float
    tried: dict[tuple[float, float], float]
    curves: dict[int, Curve]
    random: Interval | None
    paper: Interval | None
    early: Interval | None

    @property
    def before(self) -> float | None:
        """Mean over seeds of the loss before training."""
        return mean([curve.trunk[0] for curve in self.curves.values() if 0 in curve.trunk])

    def end(self, horizon: int) -> float | None:
        """Mean over seeds of the loss at the end of a horizon."""
        return mean([curve.ends[horizon] for curve in self.curves.values() if horizon in curve.ends])


def mean(values: Sequence[float]) -> float | None:
    """None of none."""
    return sum(values) / len(values) if values else None


def of(config: Config) -> dict[str, Finding]:
    """Every arm that was tuned, in the order of the experiment."""
    tuned = {name: found for name in config.arms if (found := runs.known(config, ARMS[name])) is not None}
    held = {
        name: {
            seed: curve
            for seed in config.seeds
            if (curve := curves.read(config, Key(ARMS[name].kept, found.rate, found.decay, seed))).ends
        }
        for name, found in tuned.items()
    }
    nothing = held.get(config.nothing, {})
    papers = [held[name] for name in PAPERS if len(held.get(name, ())) == len(config.seeds)]
    lowest = min(papers, key=lambda one: _ended(one, config.budget), default={})
    soonest = max(papers, key=lambda one: _times(sooner(nothing, one, config.budget)), default={})
    return {
        name: Finding(
            ARMS[name],
            found.rate,
            found.decay,
            found.tried,
            held[name],
            sooner(nothing, held[name], config.budget),
            sooner(lowest, held[name], config.budget),
            _than(soonest, held[name], nothing, config.budget),
        )
        for name, found in tuned.items()
    }


def _ended(one: dict[int, Curve], budget: int) -> float:
    found = mean([curve.ends[budget] for curve in one.values() if budget in curve.ends])
    return math.inf if found is None else found


def _times(held: Interval | None) -> float:
    return 0.0 if held is None else held.mean


def sooner(slow: dict[int, Curve], fast: dict[int, Curve], budget: int) -> Interval | None:
    """B / horizon at the loss that ``slow`` ends with at B, seed by seed."""
    pairs = [
        ratio(Crossing(float(budget)), crossing(fast[seed].ends, curve.ends[budget]))
        for seed, curve in slow.items()
        if seed in fast and budget in curve.ends
    ]
    return interval([r for r, _ in pairs], [b for _, b in pairs]) if pairs else None


def _than(slow: dict[int, Curve], fast: dict[int, Curve], level: dict[int, Curve], budget: int) -> Interval | None:
    """Horizon of ``slow`` / horizon of ``fast``, both at the loss that ``level`` ends with, seed by seed."""
    pairs = [
        ratio(crossing(slow[seed].ends, curve.ends[budget]), crossing(fast[seed].ends, curve.ends[budget]))
        for seed, curve in level.items()
        if seed in fast and seed in slow and budget in curve.ends
    ]
    return interval([r for r, _ in pairs], [b for _, b in pairs]) if pairs else None


def levers(config: Config, found: dict[str, Finding]) -> list[tuple[Finding, Interval]]:
    """Every arm that differs from another by one thing, and how many times sooner it is at the loss of a start from
    nothing than that other."""
    level = found[config.nothing].curves if config.nothing in found else {}
    rows = []
    for one in found.values():
        other = found.get(one.arm.against)
        if other is None or one.arm.nothing:
            continue
        sooner = _than(other.curves, one.curves, level, config.budget)
        if sooner is not None:
            rows.append((one, sooner))
    return rows


def trained(config: Config) -> int:
    """Steps of all runs that are on disk, tuning among them: of each its trunk, and of every end its decay."""
    return sum(
        stable(config, max(curve.ends)) + sum(h - stable(config, h) for h in curve.ends)
        for curve in curves.every(config)
        if curve.ends
    )


def ratios(one: Finding, other: Finding, horizon: int) -> list[float]:
    """Loss of ``one`` over that of ``other`` at a horizon, seed by seed."""
    return [
        curve.ends[horizon] / other.curves[seed].ends[horizon]
        for seed, curve in one.curves.items()
        if seed in other.curves and horizon in curve.ends and horizon in other.curves[seed].ends
    ]
