"""What the speed-up figures are made of: crossings, intervals, and grids whose edges move."""

import math

import numpy as np
import pytest

from benchmarks.speedup.arithmetic import Crossing, beyond, crossing, interval, lowest, ratio
from benchmarks.speedup.config import Grid
from benchmarks.speedup.runs import _search

HORIZONS = (16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_linear_in_log_steps_is_crossed_where_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slope, horizon = rng.uniform(0.1, 2.0), float(np.exp(rng.uniform(np.log(17), np.log(511))))
    ends = {h: 5.0 - slope * math.log(h / horizon) for h in HORIZONS}
    found = crossing(ends, 5.0)
    assert found.bound == ""
    assert found.horizon == pytest.approx(horizon, rel=1e-9)


def test_between_two_horizons_the_mean_is_geometric_not_arithmetic() -> None:
    assert crossing({16: 6.0, 64: 4.0}, 5.0).horizon == pytest.approx(32.0)


def test_a_loss_that_rises_again_counts_from_where_it_stays_below() -> None:
    ends = {16: 6.0, 32: 4.0, 64: 6.0, 128: 4.0}
    assert crossing(ends, 5.0).horizon == pytest.approx(math.sqrt(64 * 128))


def test_what_was_not_run_is_a_bound() -> None:
    assert crossing({16: 4.0, 32: 3.0}, 5.0) == Crossing(16.0, "<=")
    assert crossing({16: 6.0, 32: 5.5}, 5.0) == Crossing(32.0, ">")
    assert crossing({16: 6.0, 32: math.inf}, 5.0) == Crossing(32.0, ">")
    assert crossing({16: math.nan, 32: 4.0}, 5.0).horizon <= 32
    with pytest.raises(ValueError, match="no horizon"):
        crossing({}, 5.0)


def test_a_loss_exactly_at_a_horizon_is_reached_there() -> None:
    assert crossing({16: 6.0, 32: 5.0, 64: 4.0}, 5.0).horizon == pytest.approx(32.0)


@pytest.mark.parametrize(
    ("slow", "fast", "expected"),
    [
        (Crossing(512.0), Crossing(64.0), (8.0, "")),
        (Crossing(512.0), Crossing(16.0, "<="), (32.0, ">")),
        (Crossing(512.0), Crossing(256.0, ">"), (2.0, "<")),
        (Crossing(16.0, "<="), Crossing(16.0, "<="), (1.0, "?")),
        (Crossing(256.0, ">"), Crossing(64.0), (4.0, ">")),
    ],
)
def test_ratios_of_bounds_say_which_side_is_open(slow: Crossing, fast: Crossing, expected: tuple[float, str]) -> None:
    assert ratio(slow, fast) == expected


def test_an_interval_is_about_the_geometric_mean_and_never_of_one_sided_bounds_unsaid() -> None:
    found = interval([4.0, 8.0, 16.0], ["", ">", ""])
    assert found.mean == pytest.approx(8.0)
    assert 4.0 <= found.low < 8.0 < found.high <= 16.0
    assert (found.seeds, found.bound) == (3, ">")
    assert interval([2.0] * 5).low == interval([2.0] * 5).high == pytest.approx(2.0)
    assert interval([2.0, 3.0], [">", "<"]).bound == "?"


@pytest.mark.parametrize("given", [[], [1.0, 0.0], [1.0, math.inf], [1.0, math.nan]])
def test_no_ratio_is_no_interval(given: list[float]) -> None:
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="ratios are positive"):
        interval(given)


def test_the_interval_covers_the_truth_about_as_often_as_a_percentile_bootstrap_of_five_does() -> None:
    """About 83 % for five seeds (percentile bootstraps are known to be short there): far from 50, and from 100."""
    rng = np.random.default_rng(1)
    held = [interval(np.exp(rng.normal(1.0, 0.2, 5)).tolist(), draws=400) for _ in range(300)]
    covered = np.mean([i.low <= math.e <= i.high for i in held])
    assert 0.75 < covered < 0.93


LADDER = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def test_the_grid_goes_on_where_its_best_is_at_the_edge_and_only_there() -> None:
    assert beyond([0.5, 1.0, 2.0], LADDER, {0.5: 2.0, 1.0: 1.0, 2.0: 2.0}) is None
    assert beyond([0.5, 1.0, 2.0], LADDER, {0.5: 3.0, 1.0: 2.0, 2.0: 1.0}) == 4.0
    assert beyond([0.5, 1.0, 2.0], LADDER, {0.5: 1.0, 1.0: 2.0, 2.0: 3.0}) == 0.25
    assert beyond([4.0, 8.0], LADDER, {4.0: 2.0, 8.0: 1.0}) is None
    assert beyond([1.0, 2.0], LADDER, {1.0: 1.0, 2.0: math.nan}) == 0.5
    assert lowest({1.0: math.inf, 2.0: math.nan, 4.0: 3.0}, [1.0, 2.0, 4.0]) == 4.0


@pytest.mark.parametrize("best", LADDER)
def test_the_search_finds_a_bowl_wherever_it_is_and_tries_nothing_twice(best: float) -> None:
    tried: list[float] = []

    def loss(value: float) -> float:
        tried.append(value)
        return abs(math.log(value / best))

    assert _search(Grid((1.0, 2.0), LADDER), loss) == best
    assert len(tried) == len(set(tried))
