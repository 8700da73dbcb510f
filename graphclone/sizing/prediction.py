"""What the clone of a plan will be: parameters and bytes to the last one, and how long a run of it takes.

The surgery is carried out, as it costs little: its weights are recipes, of which nothing is computed or written.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphclone import saving
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.sizing.census import Census, unties
from graphclone.sizing.clock import Clock
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections import passes
from graphclone.surgery.operate import clone


@dataclass(frozen=True)
class Prediction:
    """size: bytes of the clone's files. latency: seconds of a run, None where it was not timed."""

    parameters: int
    size: int
    latency: float | None = None


def predict(
    model: Model,
    anatomy: Anatomy,
    plan: Plan,
    statistics: Statistics | None = None,
    *,
    affine: Statistics | None = None,
    clock: Clock | None = None,
    name: str = "model.onnx",
    shard_size: int | None = None,
) -> Prediction:
    """Of the clone that ``clone`` makes of a plan and these statistics. affine: of the second pass; where the method
    needs one and there is none, what that would write into weights is left out: the bytes lack its notes. name: of its
    file, which the model holds where weights lie beside it. clock: how a run is timed; without one none is.

    Raises InvalidTarget where the plan's method lacks statistics, UnsupportedGraph for what cannot be cut so.
    """
    passes.refuse_unfit(anatomy, plan.method)
    known = plan if affine is not None else passes.without_second_pass(anatomy, plan)
    made = clone(model, anatomy, known, statistics, affine)
    lacks_heads = known is not plan and unties(plan.method)
    numbers, size = Census.of(model, anatomy).untied(plan) if lacks_heads else (0, 0)
    return Prediction(
        inspect(made).parameters + numbers,
        saving.size(made, name, shard_size) + size,
        None if clock is None else clock.clone(model, anatomy, plan, made),
    )


def size_of(model: Model) -> int:
    """Bytes of a model's files; of one in memory, those that saving it would take."""
    if model.path is None or not model.path.is_file():
        return saving.size(model)
    return sum(file.stat().st_size for file in {model.path.resolve(), *(f.resolve() for f in model.external_files)})
