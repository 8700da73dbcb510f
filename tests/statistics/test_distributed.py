"""Real Ray, two actors: the statistics of one run, also where an actor dies or the run is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import graphclone as gc
from graphclone.errors import BadData, InvalidTarget
from graphclone.statistics import distributed, run
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.request import Calibration, Cluster, open_data
from graphclone.statistics.store import Statistics
from tests.statistics.test_run import assert_same_sums, saved

ray = pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: distributed measuring is not tested here")
TWO = Cluster(workers=2)
BATCHES = """
import os, signal
from pathlib import Path
import numpy as np

HERE = Path(__file__).parent

def batches():
    for number in range(11):
        if number == {die} and (HERE / "armed").exists():
            try:
                (HERE / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(number)
        yield {{"input_ids": rng.integers(0, 50, (2, 9))}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    distributed._ray().init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(parent_file):
    return gc.load(parent_file("llama", exporter="dynamo"))


def asked(data: str | Path) -> Calibration:
    return Calibration(str(data), length=9, batch_size=2, provider="cpu", threads=1).everywhere()


def named(folder: Path, *, die: int = -1) -> str:
    (folder / "batches.py").write_text(BATCHES.format(die=die))
    return f"{folder / 'batches.py'}:batches"


def alone(model, data: Calibration) -> Statistics:
    return run.measure(model, gc.inspect(model), open_data(model, data), provider="cpu", threads=1)


class Stop(Exception):
    """What ends a run in these tests."""


@pytest.mark.usefixtures("cluster")
def test_two_actors_measure_what_one_process_does_though_one_is_killed_and_the_run_is_stopped(model, tmp_path):
    data = asked(named(tmp_path, die=5))
    whole = alone(model, data)
    source = open_data(model, data)
    (tmp_path / "armed").touch()
    said: list[int] = []
    found = distributed.measure(model, data, source, TWO, progress=lambda done, _: said.append(done))
    assert (tmp_path / "died").exists()  # the actor that had its hands on batch 5, by SIGKILL
    assert_same_sums(found, whole)
    assert (found.batches, found.settings, max(said)) == (11, whole.settings, 11)

    path = tmp_path / "s.partial"

    def stop(done: int, total: int | None) -> None:
        if path.exists():
            raise Stop

    with pytest.raises(Stop):
        distributed.measure(model, data, source, TWO, progress=stop, checkpoint=Checkpoint(path, every=1))
    held = Statistics.read(path)
    assert 0 < held.batches < 11
    said.clear()
    again = distributed.measure(
        model, data, source, TWO, progress=lambda done, _: said.append(done), checkpoint=Checkpoint(path, resume=True)
    )
    assert min(said) > held.batches
    assert saved(again, tmp_path) == saved(found, tmp_path)  # whoever was ready first, or died, or had been stopped
    held.save(path)
    with pytest.raises(BadData, match=r"the run to go on with (has|took)"):
        run.measure(model, gc.inspect(model), source, provider="cpu", checkpoint=Checkpoint(path, resume=True))
    other = asked("random:15")
    with pytest.raises(BadData, match=r"the run to go on with was fed .*batches\.py:batches .*this one .* random:15"):
        distributed.measure(model, other, open_data(model, other), TWO, checkpoint=Checkpoint(path, resume=True))


@pytest.mark.usefixtures("cluster")
def test_what_an_actor_refuses_is_said_here(model, tmp_path):
    data = asked(named(tmp_path))
    source = open_data(model, data)
    file = tmp_path / "batches.py"
    file.write_text(file.read_text() + "\n# changed under the hands of the driver\n")
    with pytest.raises(BadData, match=r"batches\.py:batches on .* is other data \(sha256 .* the driver's is"):
        distributed.measure(model, data, source, TWO)


def test_a_worker_with_another_model_refuses_it(model):
    data = asked("random:2")
    task = distributed.Task(str(model.path), "0" * 64, open_data(model, data).fingerprint, data, str(Path.cwd()))
    told = distributed.Worker(task)({"shard": 1, "shards": 2})
    assert (told["error"], told["held"]) == ("InvalidTarget", None)
    assert "is another model (sha256" in told["why"]


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_room_is_said(model):
    data = asked("random:2")
    greedy = replace(data, threads=3)
    with pytest.raises(InvalidTarget, match="has 2 cores, a worker wants 3: lower --threads"):
        distributed.measure(model, greedy, open_data(model, data), TWO)


def test_what_ray_cannot_do_is_refused_before_it_starts(model):
    data = asked("random:4")
    with pytest.raises(InvalidTarget, match="Ray makes the shards itself"):
        distributed.measure(model, data, open_data(model, data).part(1, 2), TWO)
    with pytest.raises(InvalidTarget, match="open the model by its path"):
        distributed.measure(gc.graph.Model(model.graph), data, open_data(model, data), TWO)


def commanded(llama: Path, out: Path, *options: str) -> None:
    """``graphclone measure --engine ray`` in a process of its own."""
    line = [sys.executable, "-m", "graphclone", "measure", str(llama), "--data", "random:5", "--length", "9"]
    line += ["--engine", "ray", "--workers", "2", *options, "-o", str(out), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] == 5
    assert "measuring: 5 of 5" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert [file.name for file in out.parent.iterdir()] == [out.name]


@pytest.mark.usefixtures("cluster")
def test_the_command_joins_a_cluster_that_runs(parent_file, tmp_path):
    address = ray.get_runtime_context().gcs_address
    commanded(parent_file("llama", exporter="dynamo"), tmp_path / "s", "--address", address)
    assert ray.is_initialized()  # it is not its own to end


@pytest.mark.slow
def test_the_command_starts_ray_and_ends_it(parent_file, tmp_path):
    commanded(parent_file("llama", exporter="dynamo"), tmp_path / "s")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_said(address):
    with pytest.raises(InvalidTarget, match=f"no Ray cluster at {address}"):
        distributed._refuse_unreachable(address)
    for other in (None, "auto", "local"):
        distributed._refuse_unreachable(other)
