"""The steps of a run, in order: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphclone.requirements import FEATURES
from graphclone.workflow import exporting, judging, making, planning, training
from graphclone.workflow.job import PARENT, Done, Job


@dataclass(frozen=True)
class Step:
    """wanted: whether a job has this step. inputs: role -> path of what it is made from; options: everything else that
    it is made by, as plain values: both make its key. feature: a row of requirements.FEATURES. shared: once for all
    targets. partial: outputs that keep what they have beside them when they are stopped."""

    name: str
    wanted: Callable[[Job], bool]
    inputs: Callable[[Job], Mapping[str, Path]]
    options: Callable[[Job], Mapping[str, Any]]
    do: Callable[[Job], Done]
    feature: str | None = None
    shared: bool = False
    partial: tuple[str, ...] = ()

    def run(self, job: Job) -> Done:
        """Do it. Raises MissingPackage where something is not installed that it takes."""
        if self.feature is not None:
            FEATURES[self.feature].require(self.name)
        return self.do(job)


def _from_parent(*roles: str) -> Callable[[Job], dict[str, Path]]:
    """The parent, and what earlier steps wrote, where they did."""
    return lambda job: {PARENT: job.opened.path, **{role: job.found[role] for role in roles if role in job.found}}


def _final(job: Job) -> dict[str, Path]:
    return {"clone": job.final}


def _always(job: Job) -> bool:
    return True


def _nothing(job: Job) -> dict[str, Any]:
    return {}


STEPS: tuple[Step, ...] = (
    Step(
        "measure",
        lambda job: job.recipe.held.data is not None,
        _from_parent(),
        making.measure_options,
        making.measure,
        feature="cpu",
        shared=True,
        partial=("statistics.safetensors",),
    ),
    Step("plan", _always, _from_parent("stats"), planning.plan_options, planning.plan),
    Step("clone", _always, _from_parent("stats", "plan"), making.clone_options, making.clone, feature="cpu"),
    Step("verify", _always, _from_parent("plan", "clone"), _nothing, making.verify, feature="cpu"),
    Step(
        "train",
        lambda job: job.training is not None,
        training.inputs,
        training.options,
        training.train,
        feature="train",
        partial=("trained.onnx",),
    ),
    Step(
        "twin",
        lambda job: job.training is not None and job.training.twin,
        training.inputs,
        training.options,
        training.twin,
        feature="train",
        partial=("twin.onnx",),
    ),
    Step("pack", lambda job: job.wanted.pack is not None, making.pack_inputs, _nothing, making.pack, feature="train"),
    Step("torch", lambda job: job.recipe.held.outputs.torch, _final, _nothing, exporting.torch, feature="train"),
    Step(
        "hugging_face",
        lambda job: job.recipe.held.outputs.hugging_face is not None,
        _final,
        exporting.hugging_face_options,
        exporting.hugging_face,
        feature="train",
    ),
    Step(
        "side_files",
        lambda job: job.recipe.held.outputs.side_files is not False,
        lambda job: {**_from_parent("plan")(job), **_final(job)},
        exporting.side_options,
        exporting.side_files,
    ),
    Step(
        "bench",
        lambda job: job.recipe.held.bench is not None,
        judging.inputs,
        judging.bench_options,
        judging.bench,
        feature="cpu",
    ),
    Step(
        "check", lambda job: job.check is not None, judging.inputs, judging.check_options, judging.check, feature="cpu"
    ),
)
