"""From losses at horizons to a speed-up, and from paired seeds to an interval. NumPy and nothing else.

The speed-up of an arm is B / h: h is the horizon (steps of a run of its own, with its own full decay) at which the
arm reaches the loss that the tuned random arm ends with after B steps. Between the horizons that were run, loss is
taken to be linear in log(steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Crossing:
    """The horizon at which a loss is reached. ``bound``: "" for a crossing between horizons that were run, "<=" where
    the shortest of them is already below, ">" where the longest is not there yet (``horizon`` is that longest)."""

    horizon: float
    bound: str = ""


def crossing(ends: Mapping[int, float], loss: float) -> Crossing:
    """Where the losses at the ends of horizons come down to ``loss`` and stay there.

    >>> crossing({16: 6.0, 64: 4.0}, 5.0)
    Crossing(horizon=32.0, bound='')
    """
    held = sorted(ends.items())
    if not held:
        raise ValueError("no horizon was run")
    if not held[-1][1] <= loss:
        return Crossing(float(held[-1][0]), ">")
    last = max((k for k, (_, found) in enumerate(held) if not found <= loss), default=None)
    if last is None:
        return Crossing(float(held[0][0]), "<=")
    (below, high), (above, low) = held[last], held[last + 1]
    if not math.isfinite(high):
        return Crossing(float(above))  # the shorter run diverged: nothing to interpolate from
    share = (high - loss) / (high - low)
    return Crossing(math.exp(math.log(below) + share * (math.log(above) - math.log(below))))


@dataclass(frozen=True)
class Interval:
    """A geometric mean of ratios with the bootstrap's percentiles. seeds: how many pairs."""

    mean: float
    low: float
    high: float
    seeds: int
    bound: str = ""  # ">" where at least one ratio is a lower bound, "<" an upper one, "?" where some are each


def interval(ratios: Sequence[float], bounds: Sequence[str] = (), draws: int = DRAWS) -> Interval:
    """Of paired ratios: percentiles of the mean logarithm over seeds drawn with replacement, fixed generator.

    >>> interval([2.0, 8.0]).mean
    4.0
    """
    logs = np.log(np.asarray(ratios, np.float64))
    if not logs.size or not np.isfinite(logs).all():
        raise ValueError(f"ratios are positive numbers, one a seed; given {list(ratios)}")
    chosen = np.random.default_rng(0).integers(0, logs.size, (draws, logs.size))
    means = logs[chosen].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    kinds = {b for b in bounds if b}
    bound = kinds.pop() if len(kinds) == 1 else "?" if kinds else ""
    return Interval(
        float(round(np.exp(logs.mean()), 12)), float(np.exp(low)), float(np.exp(high)), int(logs.size), bound
    )


def ratio(slow: Crossing, fast: Crossing) -> tuple[float, str]:
    """How many times sooner ``fast`` is there than ``slow``, and whether that is a bound: ">" at least, "<" at most."""
    signs = {("", ""): "", ("", "<="): ">", ("", ">"): "<", (">", ""): ">", (">", "<="): ">", ("<=", ""): "<"}
    return slow.horizon / fast.horizon, signs.get((slow.bound, fast.bound), "?")


def beyond(grid: Sequence[float], ladder: Sequence[float], losses: Mapping[float, float]) -> float | None:
    """The next value of ``ladder`` to try, where the best of ``grid`` lies at its edge; None where it is inside, or
    the ladder ends. Losses that are no numbers count as the worst.

    >>> beyond([1, 2, 4], [1, 2, 4, 8], {1: 3.0, 2: 2.0, 4: 1.0})
    8
    """
    tried = sorted(grid)
    best = lowest(losses, tried)
    if best == tried[-1]:
        return next((value for value in sorted(ladder) if value > best), None)
    if best == tried[0]:
        return next((value for value in sorted(ladder, reverse=True) if value < best), None)
    return None


def lowest(losses: Mapping[float, float], tried: Sequence[float]) -> float:
    """The value with the least loss; of equals the first."""
    return min(tried, key=lambda value: losses[value] if math.isfinite(losses[value]) else math.inf)
