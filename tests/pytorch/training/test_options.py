"""Options: what makes no run is refused; schedules rise and fall as they say."""

from __future__ import annotations

import pytest

from graphclone.errors import InvalidTarget
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.options import SCHEDULES


def rates(**chosen):
    options = TrainingOptions(steps=100, learning_rate=1.0, warmup=0.1, **chosen)
    return [options.rate(step) for step in range(100)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_schedules_warm_up_and_never_rise_again(schedule):
    found = rates(schedule=schedule)
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[10] == pytest.approx(1.0)


def test_a_cosine_is_half_way_down_in_the_middle():
    found = rates(final=0.1)
    assert found[55] == pytest.approx(0.55, abs=0.01)
    assert found[-1] == pytest.approx(0.1, abs=0.01)


def test_wsd_is_constant_and_then_falls():
    found = rates(schedule="wsd", decay=0.2, final=0.0)
    assert set(found[10:82]) == {1.0}
    assert found[82 + 9] == pytest.approx(1 - 0.5**0.5, abs=0.02)  # half of the decay: 1 - sqrt(1/2)
    assert found[-1] < 0.05


def test_wsd_without_decay_and_constant_stay():
    assert set(rates(schedule="constant")[10:]) == {1.0}
    assert set(rates(schedule="wsd", decay=0.0)[10:]) == {1.0}


def test_hidden_states_weigh_less_and_less_until_half_the_run():
    options = TrainingOptions(steps=100)
    assert [options.hidden(step, 2.0) for step in (0, 25, 50, 99)] == [2.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"learning_rate": 0.0}, {"warmup": 2.0}, {"clip": -1.0}, {"final": 1.5}, {"decay": -0.1},
        {"accumulation": 0}, {"teacher_weight": 2.0}, {"hidden_weight": -1.0}, {"schedule": "linear"},
        {"precision": "fp8"}, {"keep": "all"}, {"dropout": 1.5}, {"learning_rate": float("nan")},
        {"weight_decay": -0.1}, {"weight_decay": float("nan")}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_options_are_checked(wrong):
    with pytest.raises(InvalidTarget, match="training"):
        TrainingOptions(**{"steps": 3, **wrong})
