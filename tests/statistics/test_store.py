"""Statistics on disk: exact, reproducible, refused when they are damaged or of something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graphclone.errors import BadData, InvalidTarget
from graphclone.statistics.store import Statistics


@pytest.fixture
def held(rng) -> Statistics:
    sites = {
        name: {"abs": rng.random(width), "square": rng.random(width), "count": np.asarray(7, np.int64)}
        for name, width in (("blocks.0.ffn.in", 8), ("a/b:c", 3))
    }
    return Statistics("ab" * 32, sites, 2, ("cd" * 32,), ("CPUExecutionProvider",))


def test_read_gives_what_was_saved_and_equal_statistics_equal_bytes(held, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    held.save(first)
    back = Statistics.read(first)
    assert replace(back, sites={}) == replace(held, sites={})
    assert list(back.sites) == sorted(held.sites)
    for site, sums in held.sites.items():
        for name, array in sums.items():
            np.testing.assert_array_equal(back.sites[site][name], array)
            assert back.sites[site][name].dtype == array.dtype
    back.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_means_divide_by_the_count_of_the_site(held):
    np.testing.assert_allclose(held.mean("a/b:c", "abs"), held.sites["a/b:c"]["abs"] / 7)


@pytest.mark.parametrize("kept", [0, 4, 9, 60, -1])
def test_a_truncated_file_is_bad_data(held, tmp_path, kept):
    file = tmp_path / "s.safetensors"
    held.save(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BadData, match=r"s\.safetensors: not statistics of graphclone, or truncated") as caught:
        Statistics.read(file)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(held, tmp_path):
    file = tmp_path / "s.safetensors"
    with pytest.raises(BadData, match="no such file"):
        Statistics.read(file)
    with pytest.raises(BadData, match="a folder"):
        Statistics.read(tmp_path)
    save_file({"w": np.ones(3, np.float32)}, file)
    with pytest.raises(BadData, match="but not statistics"):
        Statistics.read(file)
    save_file({"w": np.ones(3, np.float32)}, file, {"graphclone": '{"format": 99}'})
    with pytest.raises(BadData, match="format 99, this graphclone reads 1"):
        Statistics.read(file)
    save_file({"w": np.ones(3, np.float32)}, file, {"graphclone": '{"format": 1, "surprise": 2}'})
    with pytest.raises(BadData, match="surprise"):
        Statistics.read(file)


def test_sums_without_a_count_are_refused(held, tmp_path):
    file, about = tmp_path / "s.safetensors", '{"format": 1, "parent": "", "data": [], "batches": 1, "providers": []}'
    held.save(file)
    tensors = {name: array for name, array in load_file(file).items() if name != "count:a/b:c"}
    save_file(tensors, file, {"graphclone": about})
    with pytest.raises(BadData, match="site a/b:c holds abs, square"):
        Statistics.read(file)


def test_a_folder_that_is_not_there_is_said_and_nothing_is_left(held, tmp_path):
    with pytest.raises(BadData, match="cannot be written"):
        held.save(tmp_path / "none" / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_only_runs_on_one_parent_and_on_different_data_add_up(held):
    other = replace(held, data=("ef" * 32,), batches=3)
    both = held.merge(other)
    assert (both.batches, both.count, both.data) == (5, 14, ("cd" * 32, "ef" * 32))
    np.testing.assert_array_equal(both.sites["a/b:c"]["abs"], 2 * held.sites["a/b:c"]["abs"])
    with pytest.raises(BadData, match="two parents"):
        held.merge(replace(other, parent="00" * 32))
    with pytest.raises(BadData, match="count twice"):
        held.merge(replace(other, data=held.data))
    with pytest.raises(BadData, match="different sites"):
        held.merge(replace(other, sites={"a/b:c": held.sites["a/b:c"]}))


def test_statistics_of_another_parent_are_refused(held):
    held.refuse_other_parent("ab" * 32)
    with pytest.raises(InvalidTarget, match=r"another parent \(sha256 abababababab, this one is 000000000000\)"):
        held.refuse_other_parent("00" * 32)
