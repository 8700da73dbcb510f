"""Measures in many processes or on many machines: Ray hands shards of the data to actors, each with a session.

A shard is counted when its statistics arrive, whole: an actor that dies on the way leaves nothing behind, and Ray gives
its shard to another. Shards are added in order, whichever is ready first: the same data, the same bytes.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import length_hint
from pathlib import Path
from typing import Any

from graphclone import errors
from graphclone.errors import BadData, GraphCloneError, InvalidTarget, one_line
from graphclone.graph import Model
from graphclone.requirements import FEATURES
from graphclone.statistics.calibration import Source
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.request import Calibration, Cluster
from graphclone.statistics.store import Statistics

CONNECTS_WITHIN = 10.0  # seconds
SHARDS_A_WORKER = 4  # so that a slow worker, or one that dies, holds the others up by a quarter of its work
Progress = Callable[[int, int | None], None]
QUIET = {  # before Ray is imported: nothing is reported to anybody, and nothing is drawn on the terminal
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass(frozen=True)
class Task:
    """What every worker is told. fingerprint, source: sha256 of the model and of the data, as the driver sees them."""

    model: str
    fingerprint: str
    source: str
    asked: Calibration
    folder: str  # where the driver runs


class Worker:
    """An actor: opens model, data and session once, then measures one shard after the other."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.measure: Callable[[int, int], Statistics | None] | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """row: ``shard`` and ``shards``. What is refused comes back as a value: trying again would not help."""
        try:
            if self.measure is None:
                self.measure = _opened(self.task)
            held = self.measure(int(row["shard"]), int(row["shards"]))
        except GraphCloneError as reason:
            return {"shard": row["shard"], "held": None, "error": type(reason).__name__, "why": str(reason)}
        return {"shard": row["shard"], "held": held, "error": "", "why": ""}


def _opened(task: Task) -> Callable[[int, int], Statistics | None]:
    from graphclone.anatomy import inspect
    from graphclone.graph import load
    from graphclone.statistics.request import open_data
    from graphclone.statistics.run import Run

    if task.folder not in sys.path:
        sys.path.insert(0, task.folder)
    model = load(task.model)
    if model.sha256 != task.fingerprint:
        raise InvalidTarget(
            f"{task.model} on {platform.node()} is another model (sha256 {model.sha256[:12]}, the driver's is "
            f"{task.fingerprint[:12]})"
        )
    source = open_data(model, task.asked)
    if source.fingerprint != task.source:
        raise BadData(
            f"{task.asked.data} on {platform.node()} is other data (sha256 {source.fingerprint[:12]}, the driver's is "
            f"{task.source[:12]})"
        )
    asked = task.asked
    run = Run(model, inspect(model), asked.provider, asked.threads, asked.mask, asked.moments)

    def shard_of(shard: int, shards: int) -> Statistics | None:
        part = source.part(shard, shards)
        return None if next(iter(part), None) is None else run.measure(part)

    return shard_of


def measure(
    model: Model,
    asked: Calibration,
    source: Source,
    cluster: Cluster,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Statistics:
    """The statistics of ``source``, which is the data of ``asked`` (after ``Calibration.everywhere``), by many workers.

    Every worker reads the model and the data by the same path. Raises what ``run.measure`` raises, and InvalidTarget
    where Ray is not installed or its cluster is not there.
    """
    ray = _ray()
    if model.path is None:
        raise InvalidTarget("workers open the model by its path: save it first")
    if not source.fingerprint or source.shards != 1:
        raise InvalidTarget(f"{source.description}: Ray makes the shards itself, of data that has a name")
    task = Task(str(model.path.resolve()), model.sha256, source.fingerprint, asked, str(Path.cwd()))
    with _running(ray, cluster, asked.threads or 1):
        workers = _room(ray, cluster, asked.threads or 1)
        held = checkpoint.held(model.sha256, None) if checkpoint is not None else None
        shards = _shards(source, workers, held)
        tally = _Tally(held, shards, source, checkpoint, progress)
        try:
            for row in _results(ray, task, range(tally.next, shards + 1), shards, workers):
                tally.take(row)
        except BaseException:
            tally.keep()
            raise
    return tally.result()


def _room(ray: Any, cluster: Cluster, threads: int) -> int:
    """How many workers there are to be. Raises InvalidTarget where the cluster has no room for one."""
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < threads:
        raise InvalidTarget(f"the Ray cluster has {cores} cores, a worker wants {threads}: lower --threads")
    return min(cluster.workers or cores, cores // threads)


def _results(ray: Any, task: Task, numbers: range, shards: int, workers: int) -> Iterator[Mapping[str, Any]]:
    if not numbers:
        return iter(())
    threads = task.asked.threads or 1
    gpus = ray.cluster_resources().get("GPU", 0) if task.asked.provider in ("auto", "cuda") else 0
    task = replace(task, asked=replace(task.asked, threads=threads, provider="cuda" if gpus else task.asked.provider))
    rows = [{"shard": number, "shards": shards} for number in numbers]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=(task,),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=threads,
        num_gpus=1 if gpus else None,
    )
    found: Iterator[Mapping[str, Any]] = data.iter_rows()
    return found


@dataclass
class _Tally:
    """Shards as they arrive, added in order. ``early``: those whose turn has not come."""

    held: Statistics | None
    shards: int
    source: Source
    checkpoint: Checkpoint | None
    progress: Progress | None

    def __post_init__(self) -> None:
        self.early: dict[int, Statistics | None] = {}
        self.next = 1 + (len(self.held.data) if self.held is not None else 0)
        self.early_batches = 0

    def take(self, row: Mapping[str, Any]) -> None:
        """Add the result of a shard, or raise what its worker refused."""
        if row["error"]:
            raise getattr(errors, row["error"])(row["why"])
        self.early[int(row["shard"])] = row["held"]
        while self.next in self.early:
            made = self.early.pop(self.next)
            self.next += 1
            if made is not None:
                self.held = made if self.held is None else self.held.merge(made)
                if self.checkpoint is not None and self.checkpoint.due(self.held.batches):
                    self.checkpoint.write(self.held)
        if self.progress is not None:
            done = sum(made.batches for made in (self.held, *self.early.values()) if made is not None)
            total = length_hint(self.source, -1)
            self.progress(done, None if total < 0 else max(total, done))

    def keep(self) -> None:
        """Write what is not on disk yet."""
        if self.checkpoint is not None and self.held is not None and self.held.batches > self.checkpoint.batches:
            with suppress(GraphCloneError):
                self.checkpoint.write(self.held)

    def result(self) -> Statistics:
        if self.held is None:
            raise BadData(f"{self.source.description}: there is no batch to measure")
        return self.held


def _shards(source: Source, workers: int, held: Statistics | None) -> int:
    """How many shards to make: those of the run that is gone on with, whoever worked there. Raises BadData."""
    if held is None:
        return min(workers * SHARDS_A_WORKER, source.batches or workers * SHARDS_A_WORKER)
    shards = held.data[0].shards
    if [(p.source, p.shard, p.shards) for p in held.data] != [
        (source.fingerprint, number, shards) for number in range(1, len(held.data) + 1)
    ]:
        raise BadData(
            f"the run to go on with was fed {', '.join(map(str, held.data))}, this one is to take shards of "
            f"{source.description}"
        )
    return shards


def _ray() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise FEATURES["ray"].missing("--engine ray") from None
    return ray


def _refuse_unreachable(address: str | None) -> None:
    """Raises InvalidTarget where nothing listens there: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), CONNECTS_WITHIN).close()
    except (OSError, OverflowError) as reason:
        raise InvalidTarget(f"no Ray cluster at {address} ({reason})") from None


@contextmanager
def _running(ray: Any, cluster: Cluster, threads: int) -> Iterator[None]:
    """Inside a cluster; one that was started here ends here."""
    ours = not ray.is_initialized()
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if ours:
        _refuse_unreachable(cluster.address)
        cores = cluster.workers * threads if cluster.workers else None
        alone = {"include_dashboard": False, "num_cpus": cores, "_node_ip_address": "127.0.0.1"}
        here = alone if cluster.address is None else {}
        try:
            ray.init(address=cluster.address or "local", **here, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as reason:
            raise InvalidTarget(
                f"no Ray cluster at {cluster.address or 'this machine'} ({one_line(reason, 200)})"
            ) from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        if ours:
            ray.shutdown()
