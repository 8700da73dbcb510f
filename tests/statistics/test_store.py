"""Statistics on disk: exact, reproducible, refused when they are damaged or of something else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from graphclone.errors import BadData, InvalidTarget
from graphclone.statistics.portion import Portion, joined
from graphclone.statistics.store import Statistics

DATA = Portion("cd" * 32, 1, 1, 2, "12" * 32, "some text")


@pytest.fixture
def held(rng) -> Statistics:
    sites = {
        name: {"abs": rng.random(width), "square": rng.random(width), "count": np.asarray(7, np.int64)}
        for name, width in (("blocks.0.ffn.in", 8), ("a/b:c", 3))
    }
    return Statistics("ab" * 32, sites, 2, (DATA,), ("CPUExecutionProvider",))


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
    with pytest.raises(BadData, match="format 99, this graphclone reads 2"):
        Statistics.read(file)
    save_file({"w": np.ones(3, np.float32)}, file, {"graphclone": '{"format": 2, "surprise": 2}'})
    with pytest.raises(BadData, match="surprise"):
        Statistics.read(file)


def test_sums_without_a_count_are_refused(held, tmp_path):
    file = tmp_path / "s.safetensors"
    held.save(file)
    with safe_open(file, framework="numpy") as opened:
        about = opened.metadata()["graphclone"]
    tensors = {name: array for name, array in load_file(file).items() if name != "count:a/b:c"}
    save_file(tensors, file, {"graphclone": about})
    with pytest.raises(BadData, match="site a/b:c holds abs, square"):
        Statistics.read(file)


def test_a_folder_that_is_not_there_is_said_and_nothing_is_left(held, tmp_path):
    with pytest.raises(BadData, match="cannot be written"):
        held.save(tmp_path / "none" / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_only_runs_on_one_parent_with_one_setting_and_on_different_data_add_up(held):
    more = Portion("ef" * 32, 1, 1, 3, "34" * 32)
    other = replace(held, data=(more,), batches=3)
    both = held.merge(other)
    assert (both.batches, both.count, both.data) == (5, 14, (DATA, more))
    np.testing.assert_array_equal(both.sites["a/b:c"]["abs"], 2 * held.sites["a/b:c"]["abs"])
    with pytest.raises(BadData, match=r"two parents do not add up \(sha256 abababababab and 000000000000\)"):
        held.merge(replace(other, parent="00" * 32))
    with pytest.raises(BadData, match=r"count twice: some text \(sha256 cdcdcdcdcdcd, 2 batches\) and some text"):
        held.merge(replace(other, data=held.data))
    with pytest.raises(BadData, match=r"different sites .*blocks\.0\.ffn\.in abs: \(8,\) and nothing"):
        held.merge(replace(other, sites={"a/b:c": held.sites["a/b:c"]}))
    with pytest.raises(BadData, match=r"different settings .*\(moments: nothing and True\)"):
        held.merge(replace(other, settings={"moments": True}))


def test_shards_meet_where_they_share_a_batch():
    """Against the sets of their batches."""
    every = [
        Portion("s", shards, shard, batches, f"{shards} {shard} {batches}")
        for shards in range(1, 7)
        for shard in range(1, shards + 1)
        for batches in (0, 1, 2, 5)
    ]
    for one in every:
        for other in every:
            shared = bool(set(one.numbers) & set(other.numbers))
            assert one.overlaps(other) is (shared or one.fed == other.fed), (one, other)
    assert not every[1].overlaps(replace(every[1], source="another", fed="else"))


def test_all_shards_of_a_source_are_the_source():
    shards = [Portion("s", 3, k, size, f"{k}", "text") for k, size in ((1, 3), (2, 2), (3, 2))]
    (whole,) = joined(reversed(shards))
    assert (whole.shards, whole.batches, whole.source) == (1, 7, "s")
    assert joined(shards[:2]) == tuple(shards[:2])
    early = [replace(shards[0], batches=1), *shards[1:]]  # it was stopped: batches are missing in the middle
    assert joined(early) == tuple(early)


@pytest.mark.parametrize("wrong", [["x"], [{"source": 1}], [DATA.as_dict() | {"shard": 2}], 3])
def test_unreadable_data_is_refused(held, tmp_path, wrong):
    file = tmp_path / "s.safetensors"
    held.save(file)
    with safe_open(file, framework="numpy") as opened:
        about = json.loads(opened.metadata()["graphclone"]) | {"data": wrong}
    save_file(load_file(file), file, {"graphclone": json.dumps(about)})
    with pytest.raises(BadData, match="unreadable"):
        Statistics.read(file)


def test_statistics_of_another_parent_are_refused(held):
    held.refuse_other_parent("ab" * 32)
    with pytest.raises(InvalidTarget, match=r"another parent \(sha256 abababababab, this one is 000000000000\)"):
        held.refuse_other_parent("00" * 32)
