"""What is written of a finished clone: PyTorch, a Hugging Face checkpoint, a folder with its configurations."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from graphclone import pipeline
from graphclone.workflow.job import Done, Job


def torch(job: Job) -> Done:
    """model.py and model.safetensors."""
    folder = job.folder / "torch"
    return Done({"torch": folder}, pipeline.write_torch(pipeline.load(job.final), folder))


def hugging_face(job: Job) -> Done:
    """A checkpoint of the parent's family."""
    folder = job.folder / "hugging_face"
    return Done({"hugging_face": folder}, pipeline.write_hugging_face(pipeline.load(job.final), _like(job), folder))


def hugging_face_options(job: Job) -> dict[str, Any]:
    """The folder that says what family it is."""
    return {"like": job.contents.of(_like(job))}


def _like(job: Job) -> Path:
    return job.path(str(job.recipe.held.outputs.hugging_face))


def side_files(job: Job) -> Done:
    """model.onnx with config.json, genai_config.json and the tokenizer, as its users lay such folders out."""
    from graphclone import side_files, vocabulary

    folder = job.folder / "model"
    folder.mkdir(exist_ok=True)
    out = folder / "model.onnx"
    model = pipeline.load(job.final)
    if model.external_files:
        pipeline.save(model, out)
    else:
        _copy(job.final, out)
    parent, anatomy = job.opened.model, job.opened.anatomy
    plan = pipeline.read_plan(job.found["plan"])
    tokens = vocabulary.planned_tokens(parent, anatomy, plan)
    written = side_files.write(
        job.opened.path,
        out,
        anatomy,
        pipeline.inspect(model),
        plan,
        given=job.side_folder,
        tokenizer=tokens.tokenizer if tokens else None,
    )
    names = sorted(file.name for file in written.files)
    return Done({"folder": folder}, {"files": names, "not_updated": list(written.warnings)})


def side_options(job: Job) -> dict[str, Any]:
    """What they are read from, by what is in it."""
    from graphclone import side_files

    folder = side_files.source(job.opened.path, job.side_folder)
    found = job.contents.named(side_files.reads(folder), folder)
    return {"from": found, "beside": job.contents.beside(job.opened.path)}


def _copy(source: Path, target: Path) -> None:
    """The same bytes under another name, by a link where the file system has them."""
    from graphclone.outputs import staged

    with staged(target) as draft:
        try:
            os.link(source, draft)
        except OSError:
            shutil.copyfile(source, draft)
