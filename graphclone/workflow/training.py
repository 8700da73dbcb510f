"""train, and the twin that starts from nothing: ONNX at both ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from graphclone import folders, pipeline
from graphclone.errors import InvalidTarget
from graphclone.statistics.request import Calibration
from graphclone.workflow.job import PARENT, Done, Job
from graphclone.workflow.schema import Data, Training

# how a run is watched, or what runs beside it: not what the updates are
BESIDE = {"data", "teacher", "cache", "top", "twin", "read", "shuffle", "held_out", "evaluations"}


def options(job: Job) -> dict[str, Any]:
    """What a trained clone depends on, beside the clone and its teacher."""
    asked = _asked(job)
    own = {"source": job.contents.of_data(job.data(asked.task))} if ":" in asked.task else {}
    settings = asked.model_dump(exclude={"data", "teacher", "twin"})
    return {**settings, "seed": _seed(job), **own, "drawn": job.drawn(_data(job))}


def inputs(job: Job) -> dict[str, Path]:
    """The clone and its teacher."""
    teacher = _teacher(job)
    return {"clone": job.found["clone"], **({"teacher": teacher} if teacher else {})}


def train(job: Job) -> Done:
    """The trained clone."""
    out = job.folder / "trained.onnx"
    return Done({"trained": out}, _trained(job, job.found["clone"], out))


def twin(job: Job) -> Done:
    """One of the clone's shape with weights drawn at random, trained alike."""
    start, out = job.folder / "twin.start.onnx", job.folder / "twin.onnx"
    pipeline.save(pipeline.reinitialised(pipeline.load(job.found["clone"]), _seed(job)), start)
    return Done({"twin": out, "start": start}, _trained(job, start, out))


def _trained(job: Job, clone: Path, out: Path) -> dict[str, Any]:
    from graphclone.pytorch.training.files import Asked, train_file

    asked = _asked(job)
    wanted = Asked(
        clone,
        out,
        _drawn(job),
        _updates(job),
        teacher=_teacher(job),
        held_out=asked.held_out,
        cache=job.folder / "teacher" if asked.cache else None,
        top=asked.top,
        read=asked.read,
        shuffle=asked.shuffle,
        resume=job.resume,
    )
    with job.progress("training") as tick:
        result = train_file(wanted, progress=lambda done, total, _: tick(done, total), say=job.say)
    history = result.history
    best = None if history.best is None else list(history.best)
    held = {"losses": history.losses, "held_out": [list(pair) for pair in history.evaluations], "best": best}
    counts = {"steps": len(history.losses), "tokens": history.tokens, "seconds": history.seconds}
    return {**counts, **held, "passed": result.report.passed, "in_runtime": result.in_runtime}


def _drawn(job: Job) -> Calibration:
    """What to train on, with the tokenizer and the image recipe that belong to the clone: its own where it has fewer
    tokens, else those beside the parent."""
    asked, parent = job.calibration(_data(job)), job.opened.path
    beside = (parent.with_suffix(".tokenizer.json"), folders.beside(parent, "tokenizer.json"))
    if "tokenizer" in job.found or asked.tokenizer is None:
        found = next((file for file in (job.found.get("tokenizer"), *beside) if file and file.is_file()), None)
        asked = replace(asked, tokenizer=None if found is None else str(found))
    images = folders.beside(parent, "preprocessor_config.json")
    return replace(asked, images=str(images)) if asked.images is None and images.is_file() else asked


def _updates(job: Job) -> Any:
    from graphclone.pytorch.training import TrainingOptions

    asked = _asked(job)
    own = {"task": job.data(asked.task), "seed": _seed(job)}
    return TrainingOptions(
        **{**asked.model_dump(exclude=BESIDE), **own},
        evaluate_every=max(1, asked.steps // asked.evaluations),
        checkpoint_every=max(1, asked.steps // 10),
    )


def _asked(job: Job) -> Training:
    assert job.training is not None
    return job.training


def _seed(job: Job) -> int:
    """Training's own, or the recipe's."""
    seed = _asked(job).seed
    return job.recipe.held.seed if seed is None else seed


def _data(job: Job) -> Data:
    data = _asked(job).data or job.recipe.held.data
    if data is None:
        raise InvalidTarget("training takes data: give `data`, or `training.data`")
    return data


def _teacher(job: Job) -> Path | None:
    named = _asked(job).teacher
    if named is None:
        return None
    return job.opened.path if named == PARENT else job.path(named)
