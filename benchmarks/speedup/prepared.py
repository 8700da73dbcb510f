"""What every arm of an experiment shares, made once and kept in the cache: parent, rows, statistics, what they took."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.speedup.arms import Source
from benchmarks.speedup.config import Config
from graphclone import outputs, pipeline
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]
ROWS = "rows.npz"
SECONDS = "seconds.json"
Rows = Mapping[str, Array]  # name -> [rows, ...]
Tensors = Mapping[str, torch.Tensor]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is learnt. write: parent.onnx and rows.npz into a folder. inputs: names of the graph's inputs among the
    rows. loss: (what the dressed module gives, the rows as tensors) -> mean loss. dress: the clone's module, and what
    stands behind it; given the clone, to know what it kept. places: what a row counts, in the unit of ``unit``.
    least: (rows trained on, rows held out, hidden size) -> the loss that about no clone of that width is below, where
    its width alone says so.
    """

    write: Callable[[Config, Path, Say], None]
    inputs: tuple[str, ...]
    loss: Callable[[torch.Tensor, Tensors], torch.Tensor]
    dress: Callable[[nn.Module, Model, bool, int], nn.Module]
    unit: str
    score: str
    least: Callable[[Rows, Rows, int], float] | None = None


@dataclass(frozen=True)
class Prepared:
    """Everything that does not differ from arm to arm. seconds: what calibration took."""

    config: Config
    task: Task
    folder: Path
    source: Source
    train: Rows
    held_out: Rows


def prepare(config: Config, task: Task, root: Path, say: Say) -> Prepared:
    """From the cache, or made: the parent is written, rows are cut; when a clone asks for it, the parent is measured on
    rows that are trained on (never on those held out)."""
    key = json.dumps([config.task, config.data, config.target])
    folder = root / f"{config.task}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ROWS).is_file():
        task.write(config, folder, say)
    parent = pipeline.load(folder / "parent.onnx")
    anatomy = pipeline.inspect(parent)
    with np.load(folder / ROWS) as held:
        rows = {name: held[name] for name in held.files}
    train, held_out, calibration = (_part(rows, part) for part in ("train", "held_out", "calibration"))
    refuse_overlap(train, held_out, task.inputs)
    refuse_overlap(calibration, held_out, task.inputs)
    batches = _batches(calibration, task.inputs, config.data["calibration_batch"])
    source = Source(
        parent,
        anatomy,
        cache(lambda: _measured(folder, parent, anatomy, batches, say)),
        config.target,
        lambda plan: _affine(folder, parent, anatomy, plan, batches),
    )
    return Prepared(config, task, folder, source, train, held_out)


def _measured(folder: Path, parent: Model, anatomy: Anatomy, batches: list[dict[str, Array]], say: Say) -> Statistics:
    file = folder / "stats.safetensors"
    if not file.is_file():
        say(f"measuring {len(batches)} batches")
        start = time.monotonic()
        found = pipeline.measure(parent, batches, anatomy=anatomy, moments=True, threads=torch.get_num_threads())
        found.save(file)
        note(folder, "calibration", time.monotonic() - start)
    return pipeline.read_statistics(file)


def refuse_overlap(seen: Rows, held_out: Rows, inputs: tuple[str, ...]) -> None:
    """Raises BadData where a row that is judged on is trained or calibrated on too."""
    known = {b"".join(seen[n][k].tobytes() for n in inputs) for k in range(len(seen[inputs[0]]))}
    for k in range(len(held_out[inputs[0]])):
        if b"".join(held_out[n][k].tobytes() for n in inputs) in known:
            raise BadData(f"row {k} of those held out is among those trained or calibrated on")


def batches_of(held: Prepared) -> list[dict[str, Array]]:
    """What the parent is measured on."""
    with np.load(held.folder / ROWS) as rows:
        calibration = _part({n: rows[n] for n in rows.files if n.startswith("calibration/")}, "calibration")
    return _batches(calibration, held.task.inputs, held.config.data["calibration_batch"])


def _part(rows: Rows, part: str) -> dict[str, Array]:
    return {n.removeprefix(f"{part}/"): array for n, array in rows.items() if n.startswith(f"{part}/")}


def _batches(rows: Rows, inputs: tuple[str, ...], size: int) -> list[dict[str, Array]]:
    count = len(next(iter(rows.values())))
    return [{n: rows[n][k : k + size] for n in inputs} for k in range(0, count - size + 1, size)]


def _affine(
    folder: Path, parent: Model, anatomy: Anatomy, plan: Plan, batches: list[dict[str, Array]]
) -> Statistics | None:
    """The second pass over the neurons that a plan keeps, by plan in the cache."""
    if not pipeline.takes_second_pass(anatomy, plan):
        return None
    file = folder / f"kept-{hashlib.sha256(plan.to_json().encode()).hexdigest()[:12]}.safetensors"
    if not file.is_file():
        start = time.monotonic()
        found = pipeline.measure_kept(parent, plan, batches, anatomy=anatomy, threads=torch.get_num_threads())
        assert found is not None
        found.save(file)
        note(folder, "second pass", time.monotonic() - start)
    return pipeline.read_statistics(file)


def write_rows(folder: Path, rows: Rows) -> None:
    """Rows of every part, "train/input_ids" and so on, where ``prepare`` reads them."""
    with outputs.staged(folder / ROWS) as draft, draft.open("wb") as stream:
        np.savez(stream, **dict(rows))  # type: ignore[arg-type]  # its stub takes any name for allow_pickle


def noted(folder: Path) -> dict[str, float]:
    """Seconds of what was made once, as they were noted."""
    file = folder / SECONDS
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def note(folder: Path, what: str, seconds: float) -> None:
    """Keep how long something took, on a machine as busy as it was."""
    with outputs.staged(folder / SECONDS) as draft:
        draft.write_text(json.dumps({**noted(folder), what: round(seconds, 2)}, indent=1) + "\n")
