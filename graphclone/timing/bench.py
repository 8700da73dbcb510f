"""Parent and clone in two processes, run in turns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphclone import anatomy, feeds, graph
from graphclone.errors import BadData, GraphCloneError, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.statistics import positions, runtime
from graphclone.timing.figures import Bench, Measured, Setting, Spread, Timing
from graphclone.timing.machine import processor

LENGTHS = (32, 128, 512)  # tokens, where nobody says which
RUNS, WARMUP = 15, 3
Progress = Callable[[int, int | None], None]


def bench(
    parent: str | Path,
    clone: str | Path,
    *,
    lengths: Sequence[int] = (),
    batch: int = 1,
    runs: int = RUNS,
    warmup: int = WARMUP,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Latency, throughput and memory of two models (files, or folders of one), each in a process of its own, which take
    turns run by run.

    Inputs are drawn at random, within the vocabulary. lengths: of sequences; by default those of LENGTHS that the
    parent's positions reach. Raises BadModel, UnsupportedGraph, BadData for a length that a model cannot run,
    InvalidTarget for a provider that does not start.
    """
    if runs < 1 or warmup < 0 or batch < 1 or any(length < 1 for length in lengths):
        raise InvalidTarget(f"bench takes runs, batch and lengths of 1 or more; given {runs}, {batch}, {list(lengths)}")
    chosen = runtime.provider(provider)
    models = [graph.load(given) for given in (parent, clone)]
    files = [model.path or Path(given) for model, given in zip(models, (parent, clone), strict=True)]  # of folders
    asked = _lengths(models[0], lengths, batch)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_:
        fed = [_feeds(model, asked, batch, Path(folder) / str(k)) for k, model in enumerate(models)]
        workers = [
            open_.enter_context(_worker(file, chosen, threads, held)) for file, held in zip(files, fed, strict=True)
        ]
        ready = _reached(workers, asked, warmup, models if lengths else ())
        rounds = _in_turns(workers, ready, runs, progress)
        memory = [worker.ask({})["memory"] for worker in workers]
        setting = Setting(
            chosen, threads, batch, warmup, runs, _unit(models[0]), runtime.runtime().__version__, processor()
        )
        measured = [
            _measured(file, model, worker, held, setting, {asked[k]: rounds[k][n] for k in ready})
            for n, (file, model, worker, held) in enumerate(zip(files, models, workers, memory, strict=True))
        ]
    ratios = [Spread.of([c / p for p, c in zip(*rounds[k], strict=True)]) for k in ready]
    return Bench(setting, measured[0], measured[1], tuple(ratios))


@dataclass
class _Worker:
    """A process that holds one model."""

    model: Path
    process: subprocess.Popen[str]
    said: IO[str]
    gpu: int | None
    load: float = 0.0

    def ask(self, command: dict[str, int] | None) -> dict[str, Any]:
        """Its answer; ``None`` only listens. Raises BadData with what went wrong there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if command is not None:
                print(json.dumps(command), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.said.seek(0)
            last = (self.said.read().strip().splitlines() or ["killed? too little memory?"])[-1]
            raise GraphCloneError(f"{self.model}: the process that ran it ended with {self.process.wait()} ({last})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BadData(f"{self.model}: {answer['error'].removeprefix('bench: ')}")
        return answer


@contextmanager
def _worker(model: Path, provider: str, threads: int | None, fed: Sequence[Path]) -> Iterator[_Worker]:
    gpu = _gpu_memory() if provider == runtime.PROVIDERS["cuda"] else None
    command = [sys.executable, "-m", "graphclone.timing.worker", str(model), provider, str(threads or 0)]
    here = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(  # noqa: S603  (this program's own)
            [*command, *map(str, fed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "PYTHONPATH": here},
        )
        try:
            worker = _Worker(model, process, said, gpu)
            worker.load = worker.ask(None)["load"]
            yield worker
        finally:
            process.kill()
            process.communicate()


def _reached(
    workers: Sequence[_Worker], asked: Sequence[int | None], warmup: int, strict: Sequence[Model]
) -> list[int]:
    """Which of the lengths both models run, warmed up. strict: those models, where all lengths have to be."""
    ready: list[int] = []
    for k in range(len(asked)):
        try:
            for worker in workers:
                worker.ask({"length": k, "runs": max(warmup, 1)})
        except BadData:
            for worker, model in zip(workers, strict, strict=False):
                if said := positions.too_long(model, asked[k] or 0, "--lengths of "):
                    raise BadData(f"{worker.model}: length {asked[k]}: {said}") from None
            if strict or not ready:
                raise
            break  # longer than the positions: by default those that both can run
        ready.append(k)
    return ready


def _in_turns(
    workers: Sequence[_Worker], ready: Sequence[int], runs: int, progress: Progress | None
) -> dict[int, list[list[float]]]:
    """Length -> model -> seconds; each round starts with the other model."""
    taken: dict[int, list[list[float]]] = {k: [[] for _ in workers] for k in ready}
    for number in range(runs):
        for k in ready:
            turns = list(enumerate(workers))
            for n, worker in turns if number % 2 == 0 else reversed(turns):
                taken[k][n] += worker.ask({"length": k, "runs": 1})["seconds"]
        if progress:
            progress(number + 1, runs)
    return taken


def _measured(
    file: Path,
    model: Model,
    worker: _Worker,
    memory: int | None,
    setting: Setting,
    taken: dict[int | None, list[float]],
) -> Measured:
    timings = []
    for length, seconds in taken.items():
        latency = Spread.of(seconds)
        counted = setting.batch * (length if length is not None else 1)
        timings.append(Timing(length, latency, counted / latency.median, tuple(seconds)))
    size = sum(part.stat().st_size for part in {file, *model.external_files})
    now = _gpu_memory() if worker.gpu is not None else None
    device = None if now is None or worker.gpu is None else max(now - worker.gpu, 0)
    return Measured(str(file), _parameters(model), size, worker.load, memory, device, tuple(timings))


def _parameters(model: Model) -> int | None:
    try:
        return anatomy.inspect(model).parameters
    except UnsupportedGraph:
        return None


def _lengths(model: Model, asked: Sequence[int], batch: int) -> list[int | None]:
    """Those asked for; [None] where the graph's inputs have the same size whatever the length."""
    sizes = [{n: a.shape for n, a in feeds.tiny_feeds(model, batch, length).items()} for length in (3, 5)]
    if sizes[0] == sizes[1]:
        if asked:
            raise InvalidTarget("lengths: the inputs of this model have the same size whatever the length: give none")
        return [None]
    return list(dict.fromkeys(asked)) or list(LENGTHS)


def _feeds(model: Model, lengths: Sequence[int | None], batch: int, stem: Path) -> list[Path]:
    files = []
    for number, length in enumerate(lengths):
        files.append(stem.with_name(f"{stem.name}-{number}.npz"))
        arrays: dict[str, Any] = feeds.tiny_feeds(model, batch, length or 1)
        np.savez(files[-1], **arrays)
    return files


def _unit(model: Model) -> str:
    tokens = any(given.role.name == "tokens" for given in feeds.inputs(model).values())
    return "tokens" if tokens else "samples"


def _gpu_memory() -> int | None:
    """Bytes in use on the first GPU, as its driver counts them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603  (nothing of the user's)
    return int(done.stdout) << 20 if done.returncode == 0 and done.stdout.strip().isdecimal() else None
