"""What a recipe names is looked at before anything runs: its parent, its data, and whether it needs data at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from graphclone import folders, pipeline
from graphclone.errors import BadData, BadModel, InvalidTarget
from graphclone.statistics import depth, importance
from graphclone.statistics.kinds import KINDS, kinds_of
from graphclone.workflow.contents import Contents
from graphclone.workflow.job import Job, Opened, Tick
from graphclone.workflow.reading import Recipe
from graphclone.workflow.schema import Data, Workflow


def parent_of(recipe: Recipe) -> Path:
    """The ONNX file that is cut. Raises BadModel."""
    path = recipe.folder / recipe.held.parent
    if path.is_dir():
        return folders.model_in(path)
    if not path.is_file():
        raise BadModel(f"{recipe.name}: parent: {path}: no such file")
    return path


def check(recipe: Recipe) -> None:
    """Raises what a run would raise early: BadModel or UnsupportedGraph for its parent, BadData for data that is not
    there, InvalidTarget where statistics are needed and no data is given."""
    parent = parent_of(recipe)
    opened = Opened(parent)
    pipeline.inspect(opened.model)
    _refuse_without_data(recipe.held)
    job = Job(recipe, None, None, recipe.folder, {}, opened, Contents({}), lambda line: None, _silent)
    for data in _data_of(recipe.held):
        spec = job.data(data.source)
        kinds = kinds_of(spec)
        if not kinds or not (kinds[0].named or Path(spec).exists()):
            there = "cannot be told from its name" if Path(spec).exists() else "there is no such file"
            raise BadData(f"{recipe.name}: data: {spec}: {there}; data is {'; '.join(k.looks_like for k in KINDS)}")


def _silent(what: str) -> AbstractContextManager[Tick]:
    return nullcontext(lambda done, total: None)


def _data_of(held: Workflow) -> Iterator[Data]:
    if held.data is not None:
        yield held.data
    for training in (held.training, *(target.training for target in held.family.values())):
        if training is not None and training.data is not None and training.task != "image-classification":
            yield training.data


def _refuse_without_data(held: Workflow) -> None:
    if held.data is not None:
        return
    for name, target in held.family.items():
        method = target.method or held.method
        if (set(target.sizes) & _RANKED or target.budget) and importance.find(method.importance)[0].needs:
            raise InvalidTarget(f"{name}: importance {method.importance} {depth.MEASURE}, or choose one without")
        if target.layers is not None and _needs_statistics(method.depth):
            raise InvalidTarget(f"{name}: depth {method.depth} {depth.MEASURE}, or choose one without")


def _needs_statistics(name: str) -> bool:
    depth.refuse_unknown(name)
    return name in depth.DEPTHS and depth.DEPTHS[name].score is not None


_RANKED = {"hidden", "heads", "kv_heads", "head_dim", "ffn"}  # sizes whose neurons an importance ranks
