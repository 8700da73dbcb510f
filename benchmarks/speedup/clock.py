"""What an experiment takes in seconds: for a quiet machine, apart from the runs, whose curves do not depend on load."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.speedup import teaching
from benchmarks.speedup.arms import ARMS, Source, planned, start
from benchmarks.speedup.curves import Key
from benchmarks.speedup.prepared import Array, Prepared, batches_of, noted
from benchmarks.speedup.runs import learner
from benchmarks.speedup.training import trunk_share
from graphclone import outputs, pipeline
from graphclone.plan import Plan

FACTS = "facts.json"
FEW, MORE = 2, 6  # batches measured, from which all are reckoned
STEPS = 20
SHOWN = "default"


def facts(held: Prepared) -> dict[str, Any]:
    """Sizes of an experiment: parameters of parent and clone, places a row."""
    clone = start(ARMS["random"], held.source, 0)
    mask = held.train.get("attention_mask")
    least = held.task.least
    bound = {} if least is None else {"least loss": least(held.train, held.held_out, held.config.target["hidden"])}
    return bound | {
        "parameters": pipeline.inspect(clone).parameters,
        "parent parameters": held.source.anatomy.parameters,
        "places a row": 1.0 if mask is None else float(mask.sum(1).mean()),
    }


def timed(held: Prepared, names: Sequence[str]) -> dict[str, Any]:
    """Seconds of everything that wall-clock is made of, for these arms; those of the parent's fit as it was noted."""
    source, batches = held.source, batches_of(held)
    found: dict[str, Any] = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if held.config.device != "cpu":
        found["machine"] = torch.cuda.get_device_name()

    found["fit"] = noted(held.folder).get("classifier", 0.0)

    def measured(count: int, moments: bool) -> None:
        pipeline.measure(source.parent, batches[:count], anatomy=source.anatomy, moments=moments)

    found["sums"] = _reckoned(lambda count: measured(count, moments=False), len(batches))
    found["moments"] = _reckoned(lambda count: measured(count, moments=True), len(batches))
    start(ARMS[SHOWN], source, 0)  # the parent is measured for it the first time, which is counted above
    began = time.perf_counter()
    start(ARMS[SHOWN], source, 0)
    found["cloning"] = time.perf_counter() - began
    found["second pass"] = {}
    for name in names:
        plan = planned(ARMS[name], source, 0)
        takes = pipeline.takes_second_pass(source.anatomy, plan)
        found["second pass"][name] = _reckoned(partial(_kept, source, plan, batches), len(batches)) if takes else 0.0
    if any(ARMS[name].taught for name in names):
        parent = teaching.Parent(held)
        rows = [row for row in range(len(held.train["input_ids"])) if row not in parent.said][: FEW + MORE]
        parent.of(np.array(rows[:FEW]))  # the session is opened, and not timed
        began = time.perf_counter()
        parent.of(np.array(rows[FEW:]))
        found["teacher a row"] = (time.perf_counter() - began) / (len(rows) - FEW)
    made = learner(held, ARMS["random"], Key("random", 1e-3, 0.1, 0))
    steps = []
    for step in range(STEPS):
        began = time.perf_counter()
        made.step(step, trunk_share(held.config, step))
        steps.append(time.perf_counter() - began)
    return found | {"seconds a step": median(steps)}


def _kept(source: Source, plan: Plan, batches: list[dict[str, Array]], count: int) -> None:
    pipeline.measure_kept(source.parent, plan, batches[:count], anatomy=source.anatomy)


def _reckoned(run: Callable[[int], object], count: int) -> float:
    """Seconds of so many batches, from those of few and of more."""
    seconds = []
    for number in (FEW, MORE):
        began = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - began)
    each = max(0.0, (seconds[1] - seconds[0]) / (MORE - FEW))
    return seconds[1] + each * max(0, count - MORE)


def write(held: Prepared, more: dict[str, Any]) -> None:
    """Into the experiment's folder, beside its curves."""
    file = held.config.folder / FACTS
    known = json.loads(file.read_text()) if file.is_file() else {}
    held.config.folder.mkdir(parents=True, exist_ok=True)
    if "second pass" in more:
        more = more | {"second pass": known.get("second pass", {}) | more["second pass"]}
    with outputs.staged(file) as draft:
        draft.write_text(json.dumps(known | more, indent=1, sort_keys=True) + "\n")
