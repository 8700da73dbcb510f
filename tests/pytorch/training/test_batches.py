"""The order of the batches: the same again from any position, every row once a pass, shares that make up the whole."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest

from graphclone.errors import BadData
from graphclone.pytorch.training.batches import Stream, hold_out, holds_rows, rows_of, share


def numbered(count=5, rows=3):
    return [{"x": np.arange(rows)[:, None] + k * rows, "shared": np.float32(2)} for k in range(count)]


def seen(stream, position, count):
    return [batch["x"][:, 0].tolist() for batch in islice(stream.starting_at(position), count)]


@pytest.mark.parametrize("shuffle", [0, 1, 2, 5, 9])
def test_a_stream_goes_on_from_any_position(shuffle):
    whole = seen(Stream(numbered(), shuffle, seed=3), 0, 14)
    for position in range(14):
        assert seen(Stream(numbered(), shuffle, seed=3), position, 14 - position) == whole[position:]
        known = Stream(numbered(), shuffle, seed=3, length=5)
        assert seen(known, position, 14 - position) == whole[position:]
        assert known.taken == 14


@pytest.mark.parametrize("shuffle", [0, 2, 9])
def test_each_pass_gives_every_row_once(shuffle):
    stream = Stream(numbered(), shuffle)
    both = [sorted(chain.from_iterable(half)) for half in (seen(stream, 0, 5), seen(stream, 5, 5))]
    assert both == [list(range(15))] * 2


def test_shuffled_rows_are_mixed_over_batches_and_drawn_anew_in_each_pass():
    rows = seen(Stream(numbered(), 5), 0, 10)
    assert rows[:5] != seen(Stream(numbered()), 0, 5)
    assert rows[:5] != rows[5:]
    assert any(max(batch) - min(batch) > 3 for batch in rows)
    assert rows != seen(Stream(numbered(), 5, seed=1), 0, 10)


def test_batches_of_other_shapes_are_shuffled_whole():
    data = [{"x": np.full((2, k + 1), k)} for k in range(6)]
    found = [batch["x"] for batch in islice(Stream(data, 6).starting_at(0), 6)]
    assert sorted(x.shape[1] for x in found) == [1, 2, 3, 4, 5, 6]
    assert [x.shape[1] for x in found] != [1, 2, 3, 4, 5, 6]


def test_a_generator_that_is_used_up_is_refused():
    with pytest.raises(BadData, match="give a list"):
        seen(Stream(iter(numbered())), 0, 6)


def test_shares_are_the_whole():
    for rows in range(1, 9):
        for processes in range(1, 5):
            own = [k for k in range(processes) if holds_rows(rows, k, processes)]
            taken = [row for k in own for row in range(rows)[share(rows, k, processes)]]
            assert taken == list(range(rows))
            assert all(len(range(rows)[share(rows, k, processes)]) >= 1 for k in range(processes))


def test_rows_are_those_of_the_first_array_with_an_axis():
    assert rows_of({"scalar": np.float32(1), "x": np.zeros((4, 2))}) == 4


def test_what_is_held_out_is_never_trained_on():
    kept, rest = hold_out(numbered(), 2)
    assert [b["x"][0, 0] for b in kept] == [0, 3]
    assert [b["x"][0, 0] for b in rest] == [b["x"][0, 0] for b in rest] == [6, 9, 12]
