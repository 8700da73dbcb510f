"""What can be told of clones before they are written: their size and speed, the best shape within a budget, and which
blocks cost least. Public by ``graphclone.pipeline``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.sizing.budget import Budget
    from graphclone.sizing.clock import Clock
    from graphclone.sizing.prediction import Prediction
    from graphclone.sizing.searching import Found
    from graphclone.statistics.store import Statistics

    Batch = Mapping[str, np.ndarray[Any, Any]]


def predict(
    model: Model,
    plan: Plan,
    stats: Statistics | None = None,
    *,
    anatomy: Anatomy | None = None,
    affine: Statistics | None = None,
    clock: Clock | None = None,
    name: str = "model.onnx",
) -> Prediction:
    """Exact parameters and bytes of the clone, and with ``clock`` its latency in seconds. Nothing is written.

    ``affine``: from ``measure_kept``; without it bytes are approximate for methods that need a second pass. ``name``:
    of the clone's file, which it holds where weights lie beside it. Raises as ``clone`` does.
    """
    from graphclone.sizing import prediction

    return prediction.predict(model, anatomy or _inspect(model), plan, stats, affine=affine, clock=clock, name=name)


def parameters(model: Model, plan: Plan, *, anatomy: Anatomy | None = None) -> int | None:
    """How many parameters the clone of a plan has, without making it; None where only making it tells."""
    from graphclone.sizing.census import Census

    return Census.of(model, anatomy or _inspect(model)).parameters(plan)


def search(
    model: Model,
    stats: Statistics | None,
    budget: Budget,
    *,
    anatomy: Anatomy | None = None,
    importance: str = "equal-vote",
    method: str = "best",
    depth: str = "best",
    tokens: Sequence[int] | None = None,
    held_out: Iterable[Batch] = (),
    mask: str | None = None,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Of all shapes within a budget (parameters, bytes, latency) the one whose clone is best before training, judged on
    ``held_out`` where the input ``mask`` is not 0 (default: the attention mask). ``tokens``: ids of the vocabulary that
    stay; ``clock``: what latency is of. Raises InvalidTarget where none meets it."""
    from graphclone.sizing.searching import How
    from graphclone.sizing.searching import search as find

    how = How(importance, method, depth, tokens)
    found = anatomy or _inspect(model)
    return find(model, found, budget, stats, how=how, held_out=held_out, mask=mask, clock=clock, say=say)


def greedy_depth(
    model: Model,
    stats: Statistics,
    held_out: Iterable[Batch],
    layers: int | str,
    *,
    anatomy: Anatomy | None = None,
    say: Callable[[str], None] = lambda text: None,
    mask: str | None = None,
) -> tuple[int, ...]:
    """The blocks that stay (``Target.keep_blocks``) where the one that costs least on ``held_out`` goes each time.
    ``mask``: as for ``search``."""
    from graphclone.planner import Target, plan
    from graphclone.sizing.greedy import greedy

    anatomy = anatomy or _inspect(model)
    count = plan(anatomy, None, Target(layers=layers), importance="first").target["layers"]
    return greedy(model, anatomy, stats, held_out, int(count), say, mask)


def _inspect(model: Model) -> Anatomy:
    from graphclone.anatomy import inspect

    return inspect(model)
