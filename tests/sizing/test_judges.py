"""What judges is the last two batches of five or more: what is measured is the others, and nothing is held."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from graphclone.sizing.judges import judging, measured
from graphclone.statistics.calibration import open_source
from tests.surgery.parents import parent


class Uncounted:
    """Data that only reading counts. alive: batches of it that somebody holds."""

    def __init__(self, count):
        self.count, self.living, self.most = count, [], 0

    def __iter__(self):
        for number in range(self.count):
            ids = np.full((1, 4), number)
            self.living.append(weakref.ref(ids))
            yield {"input_ids": ids}
            del ids
            self.most = max(self.most, sum(ref() is not None for ref in self.living))


def numbers(batches):
    return [int(batch["input_ids"][0, 0]) for batch in batches]


def opened(data):
    return open_source(data, parent("llama", "dynamo").model)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("count", "apart"), [(1, 0), (4, 0), (5, 2), (9, 2)])
def test_the_last_two_of_five_or_more_judge(count, apart, counted):
    source = opened(list(Uncounted(count)) if counted else Uncounted(count))
    assert source.batches == (count if counted else None)
    others = measured(source)
    assert numbers(judging(source)) == list(range(count - apart, count))
    assert numbers(others) == numbers(others) == list(range(count - apart))
    assert numbers(others.after(2)) == list(range(2, count - apart))
    assert others.batches == (count - apart if counted else None)
    assert others.fingerprint == source.fingerprint


def test_batches_that_can_be_had_by_number_are_not_read_for_it():
    read = []

    def at(number):
        read.append(number)
        return {"input_ids": np.full((1, 4), number)}

    source = replace(opened(list(Uncounted(9))), _at=at)
    assert source.jumps
    assert numbers(judging(source)) == read == [7, 8]
    assert numbers(measured(source)) == list(range(7))


def test_nothing_is_held_but_what_judges():
    data = Uncounted(60)
    source = opened(data)
    for _ in measured(source):
        pass
    assert len(judging(source)) == 2
    assert data.most <= 6
