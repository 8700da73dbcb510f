"""Runs that are cut in pieces, stopped and gone on with: the sums are those of one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from graphclone.cli.app import run as command
from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.statistics import run
from graphclone.statistics.calibration import open_source
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.prefetch import AHEAD, prefetched
from graphclone.statistics.runtime import MOST_THREADS, open_session
from graphclone.statistics.store import Statistics

EXACT = 1e-12  # merging: relative to the largest sum of its kind at the site
SEQUENCES = 4


@pytest.fixture
def model(hand):
    return hand.model()


@pytest.fixture
def measure(hand, model):
    anatomy = hand.anatomy(model)
    return lambda batches, **options: run.measure(model, anatomy, batches, provider="cpu", threads=1, **options)


def saved(held: Statistics, folder: Path) -> bytes:
    held.save(folder / "saved")
    return (folder / "saved").read_bytes()


def assert_same_sums(found: Statistics, expected: Statistics) -> None:
    assert set(found.sites) == set(expected.sites)
    for site, held in expected.sites.items():
        for name, array in held.items():
            if name == "count":
                assert found.sites[site][name].tobytes() == array.tobytes()
            else:
                scale = float(np.abs(array).max())  # signed sums cancel
                np.testing.assert_allclose(found.sites[site][name], array, rtol=EXACT, atol=EXACT * scale)


@pytest.mark.parametrize(("shards", "moments"), [(2, False), (3, False), (3, True), (5, False), (5, True)])
def test_shards_of_a_source_merge_into_one_run(measure, model, shards, moments):
    source = open_source("random:7", model, length=6, batch_size=SEQUENCES)
    whole = measure(source, moments=moments)
    parts = [measure(source.part(shard, shards), moments=moments) for shard in range(1, shards + 1)]
    assert [part.batches for part in parts] == [len(range(k, 7, shards)) for k in range(shards)]
    merged = parts[-1]
    for part in reversed(parts[:-1]):
        merged = merged.merge(part)
    assert_same_sums(merged, whole)
    assert [(p.source, p.shards, p.batches) for p in merged.data] == [(source.fingerprint, 1, 7)]
    with pytest.raises(BadData, match="would count twice"):
        merged.merge(parts[0])
    with pytest.raises(BadData, match=rf"count twice: [^/]*shard 1/{shards}, \d+ batches\)$"):
        parts[0].merge(parts[0])
    with pytest.raises(BadData, match="would count twice"):
        parts[0].merge(measure(source.part(1, shards + 1), moments=moments))  # both have batch 1


def test_the_same_batches_under_another_limit_count_twice(measure, model):
    short, long = (measure(open_source("random:9", model, length=6, limit=limit)) for limit in (2, 3))
    with pytest.raises(BadData, match="would count twice"):
        short.merge(long)


def test_numbers_beyond_all_data_are_no_trouble(measure, model, tmp_path):
    beyond = 10**23
    source = open_source("random:2", model, length=6, batch_size=SEQUENCES, limit=beyond)
    assert (len(source), measure(source).batches) == (2, 2)
    with pytest.raises(InvalidTarget, match=rf"shard 1/{beyond}: no data has so many batches"):
        source.part(1, beyond)
    with pytest.raises(InvalidTarget, match="say how many batches, as in random:4"):
        open_source(f"random:{beyond}", model)
    for threads in (MOST_THREADS + 1, beyond):
        with pytest.raises(InvalidTarget, match=rf"--threads {threads}: ONNX Runtime is given 1 to {MOST_THREADS}"):
            open_session(model, "CPUExecutionProvider", threads)


def test_a_shard_without_a_batch_is_said(measure, model):
    source = open_source("random:3", model, length=6)
    with pytest.raises(BadData, match="shard 4/4 has no batch in it"):
        measure(source.part(4, 4))
    for shard, shards in ((0, 4), (5, 4), (1, 0)):
        with pytest.raises(InvalidTarget, match="shard"):
            source.part(shard, shards)


class Stop(Exception):
    """What ends a run in these tests."""


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("kind", ["a source that jumps", "a source that is read", "a list"])
def test_a_stopped_run_goes_on_at_the_exact_batch(measure, model, tmp_path, kind, moments):
    jumping = open_source("random:8", model, length=6, batch_size=SEQUENCES)
    made = {
        "a source that jumps": jumping,
        "a source that is read": open_source([dict(batch) for batch in jumping], model),
        "a list": list(jumping),
    }[kind]
    if kind == "a source that jumps":
        made = made.part(2, 2)
    whole = measure(made, moments=moments)

    def stop(done: int, total: int | None) -> None:
        if done == 3:
            raise Stop

    path = tmp_path / "s.partial"
    with pytest.raises(Stop):
        measure(made, progress=stop, checkpoint=Checkpoint(path, every=2), moments=moments)
    assert Statistics.read(path).batches == 3
    said: list[int] = []
    going = Checkpoint(path, resume=True)
    again = measure(made, progress=lambda done, _: said.append(done), checkpoint=going, moments=moments)
    assert said == list(range(4, whole.batches + 1))
    assert saved(again, tmp_path) == saved(whole, tmp_path)


@pytest.mark.parametrize(("guess", "totals"), [(2, [2, None, None, 3]), (3, [3, 3, None, 3]), (4, [4, 4, 4, 3])])
def test_a_guessed_total_is_not_held_to_once_it_is_reached(measure, model, guess, totals):
    source = replace(open_source("random:3", model, length=6), batches=None, _guess=guess)
    said = []
    measure(source, progress=lambda done, total: said.append((done, total)))
    assert said == list(zip([1, 2, 3, 3], totals, strict=True))


def test_a_checkpoint_is_written_every_so_many_batches_or_after_a_while(measure, model, tmp_path, monkeypatch):
    source = open_source("random:5", model, length=6)
    seen = []

    def look(path: Path):
        return lambda done, _: seen.append(Statistics.read(path).batches if path.exists() else 0)

    measure(source, progress=look(tmp_path / "a"), checkpoint=Checkpoint(tmp_path / "a", every=2))
    assert seen == [0, 2, 2, 4, 4]
    seen.clear()
    monkeypatch.setattr("graphclone.statistics.checkpoint.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("graphclone.statistics.checkpoint.SHARE", 0)
    measure(source, progress=look(tmp_path / "b"), checkpoint=Checkpoint(tmp_path / "b"))
    assert seen == [1, 2, 3, 4, 5]
    seen.clear()
    monkeypatch.setattr("graphclone.statistics.checkpoint.SHARE", 1e9)  # writing once took longer than all the rest may
    measure(source, progress=look(tmp_path / "c"), checkpoint=Checkpoint(tmp_path / "c"))
    assert seen == [1, 1, 1, 1, 1]


def test_a_broken_batch_keeps_those_before_it_and_mended_data_goes_on(measure, model, tmp_path):
    good = [dict(batch) for batch in open_source("random:5", model, length=6)]
    broken = [*good[:3], {"input_ids": np.full((2, 6), 300)}, good[4]]
    path = tmp_path / "s.partial"
    with pytest.raises(BadData, match=r"batch 4: input_ids holds ids from 300 .* 3 batches before are kept in .*--res"):
        measure(broken, checkpoint=Checkpoint(path))
    again = measure(good, checkpoint=Checkpoint(path, resume=True))
    assert saved(again, tmp_path) == saved(measure(good), tmp_path)


def test_a_run_does_not_go_on_with_something_else(measure, model, tmp_path, hands, hand):
    source = open_source("random:6", model, length=6)
    path = tmp_path / "s.partial"
    kept = measure(source.part(1, 2))
    kept.save(path)
    refused = {
        "took shard 1/2, this one is to take 1/1": source,
        "took shard 1/2, this one is to take 2/2": source.part(2, 2),
        r"first 3 batches are not those .*random:6": open_source("random:6", model, length=6, seed=1).part(1, 2),
        r"first 3 batches are not": open_source("random:4", model, length=5).part(1, 2),
    }
    for said, data in refused.items():
        with pytest.raises(BadData, match=said):
            measure(data, checkpoint=Checkpoint(path, resume=True))
        assert Statistics.read(path).batches == 3
    replace(kept, parent="0" * 64).save(path)
    with pytest.raises(BadData, match=rf"cannot be gone on with: .*parents.*000000000000 and {model.sha256[:12]}"):
        measure(source.part(1, 2), checkpoint=Checkpoint(path, resume=True))
    replace(kept, settings={"graphclone": "0.0.1"}).save(path)
    with pytest.raises(BadData, match=r"settings .*\(graphclone: 0\.0\.1 and "):
        measure(source.part(1, 2), checkpoint=Checkpoint(path, resume=True))
    path.write_bytes(b"no statistics")
    with pytest.raises(BadData, match="not statistics"):
        measure(source.part(1, 2), checkpoint=Checkpoint(path, resume=True))


def test_a_killed_run_is_gone_on_with(parent_file, tmp_path, capfd):
    llama, out, whole = parent_file("llama", exporter="dynamo"), tmp_path / "s", tmp_path / "whole"
    partial = tmp_path / "s.partial"
    common = ["--length", "16", "--threads", "1", "--provider", "cpu"]
    start = ["measure", str(llama), *common, "--checkpoint-every", "2", "-o", str(out)]
    line = [sys.executable, "-m", "graphclone", *start, "--data", "random:100000000"]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as child:
        while not partial.exists():
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    data = ["--data", f"random:{Statistics.read(partial).batches + 3}"]
    assert command([*start, *data]) == 2  # never over what an hour made
    assert "--resume" in capfd.readouterr().err
    assert command([*start, *data, "--resume"]) == 0
    assert not partial.exists()
    assert command(["measure", str(llama), *common, *data, "-o", str(whole)]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_ctrl_c_keeps_what_there_is(parent_file, tmp_path):
    llama, out = parent_file("llama", exporter="dynamo"), tmp_path / "s"
    line = [sys.executable, "-m", "graphclone", "measure", str(llama), "--data", "random:100000000", "-o", str(out)]
    with subprocess.Popen([*line, "--checkpoint-every", "1"], stderr=subprocess.PIPE, text=True) as child:
        while not (partial := tmp_path / "s.partial").exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert child.stderr is not None
        said = child.stderr.read().splitlines()
    assert "--resume" in said[-2]
    assert said[-1] == "graphclone: interrupted"
    assert Statistics.read(partial).batches >= 1
    assert [file.name for file in tmp_path.iterdir()] == ["s.partial"]


def test_reading_ahead_keeps_the_order_is_bounded_and_hands_exceptions_on():
    with prefetched(range(100)) as stream:
        assert list(stream) == list(range(100))

    def failing():
        yield 1
        raise GraphCloneError("the second")

    with prefetched(failing()) as stream:
        assert next(stream) == 1
        with pytest.raises(GraphCloneError, match="the second"):
            next(stream)

    made: list[int] = []
    endless = (made.append(n) or n for n in count())  # type: ignore[func-returns-value]
    before = threading.active_count()
    with prefetched(endless) as stream:
        assert list(islice(stream, 3)) == [0, 1, 2]
    assert threading.active_count() == before
    assert len(made) <= 3 + AHEAD + 1


@pytest.mark.parametrize("moments", [False, True])
def test_data_that_is_masked_everywhere_is_refused(measure, batches, moments):
    masked = [{**batch, "attention_mask": np.zeros_like(batch["attention_mask"])} for batch in batches]
    with pytest.raises(BadData, match="every position of the data is masked"):
        measure(masked, moments=moments)
    assert measure([*masked, *batches], moments=moments).count > 0
