"""Statistics on disk: exact, reproducible, refused when they are damaged or of something else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from graphclone.errors import BadData, InvalidTarget
from graphclone.statistics import importance
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
    with pytest.raises(BadData, match=r"count twice: some text \(sha256 cdcdcdcdcdcd, 2 batches\)$"):
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


def written_over(held: Statistics, file, change) -> None:
    """The statistics saved, and what is in the file changed: ``change(fields, tensors)``."""
    held.save(file)
    with safe_open(file, framework="numpy") as opened:
        about = json.loads(opened.metadata()["graphclone"])
    tensors = load_file(file)
    change(about, tensors)
    save_file(tensors, file, {"graphclone": json.dumps(about)})


FIELDS = [
    ("batches", "x"),
    ("batches", -3),
    ("batches", None),
    ("batches", True),
    ("providers", 5),
    ("providers", "cpu"),
]
FIELDS += [("settings", None), ("settings", [1]), ("settings", {"mask": []}), ("parent", None)]


@pytest.mark.parametrize(("name", "value"), FIELDS)
def test_fields_that_no_run_writes_are_refused(held, tmp_path, name, value):
    file = tmp_path / "s.safetensors"
    written_over(held, file, lambda about, tensors: about.update({name: value}))
    with pytest.raises(BadData, match=rf"s\.safetensors: statistics with unreadable {name}: ") as caught:
        Statistics.read(file)
    assert "\n" not in str(caught.value)


MOMENTS = {"moment": np.eye(3), "moment_sum": np.ones(3), "moment_count": np.ones(1)}
IMPOSSIBLE = {
    "counted below 0": ({"count": np.asarray(-5)}, "count -5"),
    "nan": ({"square": np.full(3, np.nan)}, "square that is not finite"),
    "inf": ({"abs": np.full(3, np.inf)}, "abs that is not finite"),
    "squares below 0": ({"square": -np.ones(3)}, "square below 0"),
    "short": ({"square": np.ones(2)}, r"square of the shape \[2\], beside sums over 3 positions"),
    "a matrix of squares": ({"square": np.ones((3, 3))}, r"square of the shape \[3, 3\]"),
    "empty": ({"square": np.ones(0)}, r"square of the shape \[0\]"),
    "single precision": ({"square": np.ones(3, np.float32)}, "sums that are not float64"),
    "no cosine": ({"cosine": np.ones(0)}, r"cosine of the shape \[0\]"),
    "cosines above 1": ({"cosine": np.full(1, 7.1)}, "cosine 7.1 of 7 positions"),
    "moments alone": ({"moment": np.eye(3)}, "second moments without moment_sum and moment_count"),
    "moments not square": ({**MOMENTS, "moment": np.ones((2, 3))}, r"moment of the shape \[2, 3\]"),
    "moments in a row": ({**MOMENTS, "moment": np.ones(3)}, r"moment of the shape \[3\]"),
    "moments below 0": ({**MOMENTS, "moment": -np.eye(3)}, "moment below 0"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_sums_that_no_run_makes_are_refused(held, tmp_path, case):
    more, why = IMPOSSIBLE[case]
    file = tmp_path / "s.safetensors"
    written_over(
        held, file, lambda about, tensors: tensors.update({f"{name}:a/b:c": np.asarray(a) for name, a in more.items()})
    )
    with pytest.raises(BadData, match=rf"s\.safetensors: site a/b:c holds {why}"):
        Statistics.read(file)


def test_second_moments_are_read_back(held, tmp_path):
    file = tmp_path / "s.safetensors"
    replace(held, sites={"a/b:c": {**held.sites["a/b:c"], **MOMENTS}}).save(file)
    np.testing.assert_array_equal(Statistics.read(file).sites["a/b:c"]["moment"], np.eye(3))


def test_sums_of_another_width_than_the_site_are_refused(hand, rng):
    anatomy = hand.anatomy(hand.model())
    sites = {"blocks.0.ffn.in": {"square": rng.random(3), "count": np.asarray(7, np.int64)}}
    wide = Statistics(anatomy.fingerprint, sites, 2, (DATA,))
    with pytest.raises(BadData, match=r"square of the shape \[3\] at the site blocks.0.ffn.in, which has 8 positions"):
        importance.score("energy", anatomy, wide)


def test_nothing_is_scored_by_sums_over_no_position(hand, rng):
    anatomy = hand.anatomy(hand.model())
    nothing = np.asarray(0, np.int64)
    sites = {site.name: {"square": np.zeros(site.width), "count": nothing} for site in anatomy.sites}
    with pytest.raises(BadData, match=r"nothing was counted at the site blocks.0.ffn.in: every position .* is masked"):
        importance.score("energy", anatomy, Statistics(anatomy.fingerprint, sites, 2, (DATA,)))
