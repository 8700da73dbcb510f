"""A recipe makes, piece by piece, what np.take makes at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pages, recipes
from graphclone.errors import BadModel
from graphclone.pages import release
from graphclone.recipes import Recipe, held, is_lazy, pieces, sample


def taken(array, takes):
    for axis, positions in takes.items():
        array = np.take(array, positions, axis=axis)
    return array


def joined(values, budget):
    return b"".join(piece().tobytes() for piece in pieces(values, budget))


SHAPES = [(), (1,), (7,), (5, 6), (1, 1, 9), (3, 4, 5), (2, 1, 3, 4)]
BUDGETS = [1, 24, 100, 1 << 20]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("order", ["sorted", "shuffled", "one run", "whole"])
def test_pieces_are_the_slice(rng, shape, budget, order):
    source = rng.standard_normal(shape).astype(np.float32)
    takes = {}
    for axis, size in enumerate(shape):
        chosen = rng.permutation(size)[: max(1, size - 2)]
        if order != "whole" and axis % 2 == 0:
            takes[axis] = {"sorted": np.sort(chosen), "shuffled": chosen, "one run": np.arange(1, size) % size}[order]
    recipe = Recipe(source, takes)
    expected = taken(source, takes)
    assert (recipe.shape, recipe.dtype, recipe.nbytes) == (expected.shape, expected.dtype, expected.nbytes)
    assert (recipe.ndim, recipe.size) == (expected.ndim, expected.size)
    assert joined(recipe, budget) == expected.tobytes()
    assert np.array_equal(recipe.load(), expected)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_recipe_of_a_recipe(rng, budget):
    source = rng.standard_normal((6, 7, 8)).astype(np.float32)
    first = {0: np.array([5, 0, 2, 3]), 2: np.array([1, 2, 3, 4, 7])}
    second = {0: np.array([3, 1]), 1: np.array([6, 0, 1]), 2: np.array([4, 0])}
    gain = rng.standard_normal((4, 7, 5)).astype(np.float32)
    inner = Recipe(source, first, lambda piece, place: piece * gain[place])
    expected = taken(taken(source, first) * gain, second)
    assert joined(Recipe(inner, second), budget) == expected.tobytes()


@pytest.mark.parametrize("finish", [lambda piece, _: piece, lambda piece, _: piece[..., ::-1]])
def test_pieces_do_not_share_memory(rng, finish):
    """Of one thread: what is read on the way lies where it lay for the piece before."""
    source = rng.standard_normal((40, 6))
    takes = {0: np.arange(1, 40, 2), 1: np.array([1, 4, 2])}
    expected = finish(taken(source, takes), ())
    for recipe in (Recipe(source, takes, finish), Recipe(Recipe(source, takes), {}, finish)):
        made = [recipe.make(place) for place in recipe.places(100)]
        assert len(made) > 2
        assert np.array_equal(np.concatenate(made), expected)


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_that_is_not_there(rng, position):
    with pytest.raises(IndexError, match="of an axis of 6"):
        Recipe(rng.standard_normal((40, 6)), {1: np.array([2, position])})


def test_a_piece_is_told_where_it_lies(rng):
    source = rng.standard_normal((4, 3, 5))
    gain = rng.standard_normal((4, 3, 5))
    recipe = Recipe(source, {}, lambda piece, place: piece * gain[place])
    for budget in BUDGETS:
        assert joined(recipe, budget) == (source * gain).tobytes()


EXAMPLES = [np.arange(24.0).reshape(4, 6).T, np.float16([[3]]), np.empty((0, 3)), np.empty((3, 0)), np.int8(1)]


@pytest.mark.parametrize("values", EXAMPLES)
def test_pieces_of_arrays(values):
    values = np.asarray(values)
    assert joined(values, 16) == np.ascontiguousarray(values).tobytes()


def test_no_piece_is_much_larger_than_asked(rng):
    recipe = Recipe(rng.standard_normal((3, 500, 40)), {0: np.array([2, 0]), 1: np.arange(0, 500, 2)})
    sizes = [piece().nbytes for piece in pieces(recipe, 4096)]
    assert sum(sizes) == recipe.nbytes
    assert max(sizes) <= 4096
    assert len(sizes) < 2 * recipe.nbytes / 1600


def test_a_constant_is_lazy_until_its_numbers_are_asked_for(rng):
    source = rng.standard_normal((4, 4))
    tensor = gs.Constant("w", Recipe(source, {0: np.array([1, 3])}))
    assert is_lazy(tensor)
    assert held(tensor).shape == tensor.shape == (2, 4)
    assert np.array_equal(sample(held(tensor), 3), source[1, :3])
    assert is_lazy(tensor.copy())
    assert np.array_equal(tensor.values, source[[1, 3]])
    assert not is_lazy(tensor)
    assert held(tensor) is tensor.values


def resident(file):
    """Bytes of a file that are mapped into this process and in its memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(file)):
            return next(int(row.split()[1]) for row in lines if row.startswith("Rss:")) << 10
    raise AssertionError(f"{file} is not mapped")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")
def test_reading_a_mapped_file_keeps_nothing_of_it_in_memory(tmp_path, rng):
    numbers = rng.standard_normal((2048, 1024)).astype(np.float32)
    (tmp_path / "weights").write_bytes(bytes(64) + numbers.tobytes())
    mapped = pages.mapped(tmp_path / "weights")[64:].view(np.float32).reshape(2048, 1024)
    assert float(mapped.sum()) != 0
    assert resident(tmp_path / "weights") == pytest.approx(numbers.nbytes, rel=0.01)
    release(mapped)
    assert resident(tmp_path / "weights") == 0
    rows = rng.permutation(2048)[:1024]
    recipe = Recipe(mapped, {0: np.sort(rows), 1: np.arange(0, 1024, 2)})
    assert np.array_equal(recipe.load(), numbers[np.sort(rows)][:, ::2])
    assert resident(tmp_path / "weights") <= 4 * recipes.PIECE
    assert joined(mapped, 1 << 16) == numbers.tobytes()
    assert resident(tmp_path / "weights") <= 4 * recipes.PIECE


def test_arrays_in_memory_are_left_alone(rng):
    numbers = rng.standard_normal(4096)
    numbers.flags.writeable = False
    before = numbers.copy()
    release(numbers)
    assert np.array_equal(numbers, before)


@pytest.fixture(params=["at once", "one by one"])
def asked(request, tmp_path, monkeypatch):
    """A mapped matrix with rows of 2 pages, and the runs of its rows that the system is asked to read."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("the system cannot be asked")
    row = 2 * mmap.PAGESIZE
    (tmp_path / "weights").write_bytes(bytes(64 * row))
    mapped, runs = pages.mapped(tmp_path / "weights").reshape(64, row), []
    monkeypatch.setattr(pages, "GAP", 2 * row)
    if request.param == "at once":
        if pages._process_madvise is None:
            pytest.skip("the system has no such call")

        def ask(process, runs_at, count, *_):
            held = (ctypes.c_size_t * (2 * count)).from_address(runs_at)
            runs.extend(((held[k] - mapped.ctypes.data) / row, held[k + 1] / row) for k in range(0, 2 * count, 2))
            return 0

        monkeypatch.setattr(pages, "_process_madvise", ask)
    else:
        monkeypatch.setattr(pages, "_process_madvise", None)
        monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, __: runs.append((start / row, size / row)))
    return mapped, runs


def test_the_disk_is_asked_for_the_rows_that_are_taken(asked):
    mapped, runs = asked
    recipe = Recipe(Recipe(mapped, {0: np.array([9, 1, 2, 40, 5, 43, 41])}), {0: np.array([1, 2, 3, 4, 5, 6])})
    next(pieces(recipe)).expect()
    assert runs == [(1, 5), (40, 4)]  # a gap of two rows is read along


def test_the_disk_is_asked_for_all_of_a_run(asked):
    mapped, runs = asked
    next(pieces(Recipe(mapped, {0: np.arange(7, 30)}))).expect()
    assert runs == [(7, 23)]
    next(pieces(mapped.copy())).expect()  # in memory: nothing to ask for
    assert len(runs) == 1


ROWS = [slice(3, 40), np.array([1, 2, 3, 9]), np.array([9, 8, 5, 5, 6, 63]), np.array([7])]


@pytest.mark.parametrize("taken", ROWS, ids=str)
@pytest.mark.parametrize("at_once", [False, True])
def test_rows_of_a_file_are_those_of_its_map(tmp_path, rng, monkeypatch, taken, at_once):
    monkeypatch.setattr(pages, "RUN", 1 << 20 if at_once else 1)
    numbers = rng.integers(0, 255, (64, 3000), np.uint8)
    (tmp_path / "weights").write_bytes(bytes(100) + numbers.tobytes())
    mapped = pages.mapped(tmp_path / "weights")[100:].view(np.int16).reshape(64, 1500)
    found = pages.take(mapped, taken, lambda n: np.empty(n, np.uint8))
    assert np.array_equal(found, numbers.view(np.int16)[taken])
    assert np.array_equal(
        pages.take(mapped[:, 2:9], taken, lambda n: np.empty(n, np.uint8)), numbers.view(np.int16)[taken, 2:9]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_was_replaced_is_read_as_it_was(tmp_path, rng, gone):
    numbers = rng.integers(0, 255, (16, 8192), np.uint8)
    (tmp_path / "weights").write_bytes(numbers.tobytes())
    recipe = Recipe(
        pages.mapped(tmp_path / "weights").reshape(16, 8192), {0: np.array([1, 2, 7]), 1: np.arange(0, 8192, 3)}
    )
    (tmp_path / "other").write_bytes(bytes(numbers.nbytes))
    (tmp_path / "weights").unlink() if gone else os.replace(tmp_path / "other", tmp_path / "weights")
    next(pieces(recipe)).expect()
    assert np.array_equal(recipe.load(), numbers[[1, 2, 7]][:, ::3])


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="the file is not read")
def test_a_file_that_was_cut_short_is_an_error(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1 << 16))
    recipe = Recipe(pages.mapped(tmp_path / "weights").reshape(4, 1 << 14), {0: np.array([0, 3])})
    os.truncate(tmp_path / "weights", 1 << 15)
    with pytest.raises(BadModel, match="was cut short while it was open"):
        recipe.load()


@pytest.mark.parametrize(
    "ids", [np.r_[8:16, 0:4, 20:24], np.r_[0:512, 1024:1536], np.arange(1, 17), np.array([3, 1, 2]), np.array([5])]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_runs_are_taken_as_single_positions_are(rng, ids, axis):
    shape = [3, 2, 5]
    shape[axis] = 1600
    piece = rng.standard_normal(shape)
    assert np.array_equal(recipes._take(piece, ids, axis, recipes._new), np.take(piece, ids, axis=axis))


def test_runs_are_as_long_as_all_of_them_are():
    widths = [
        (np.r_[8:16, 0:4, 20:24], 24, 4),
        (np.r_[0:512, 1024:1536], 2048, 256),
        (np.r_[4:8, 8:12], 12, 4),
        (np.r_[1:17], 32, 1),
    ]
    assert [recipes._width(ids, size) for ids, size, _ in widths] == [width for *_, width in widths]
