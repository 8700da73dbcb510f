"""The whole story in one file: file -> anatomy -> statistics -> plan -> clone -> verified -> PyTorch -> file.

Each function is one step, and the whole public interface. Rooms are imported where they are entered, so that
``import graphclone`` loads neither ONNX Runtime nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.errors import BadData, InvalidTarget
from graphclone.foresight import greedy_depth, parameters, predict, search
from graphclone.in_torch import (
    from_torch,
    pack,
    read_tensors,
    reinitialised,
    to_torch,
    train,
    write_hugging_face,
    write_torch,
)
from graphclone.outputs import staged
from graphclone.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.planner import Target
    from graphclone.statistics.store import Statistics
    from graphclone.verification import Report

    Batch = Mapping[str, np.ndarray[Any, Any]]

Progress = Callable[[int, int | None], None]


def load(path: str | Path) -> Model:
    """Open an ONNX file; its weights stay on disk. Raises BadModel."""
    from graphclone import graph

    return graph.load(path)


def save(model: Model, path: str | Path, shard_size: int | None = None) -> None:
    """Write a model atomically; weights above 1 GB, or in shards, go to files beside it. Raises BadModel."""
    from graphclone import saving

    saving.save(model, path, shard_size)


def inspect(model: Model) -> Anatomy:
    """Trace the graph: its stacks of blocks, their parts, and what can be cut. Raises UnsupportedGraph."""
    from graphclone.anatomy import inspect as trace

    return trace(model)


def measure(
    model: Model,
    batches: Iterable[Batch],
    *,
    anatomy: Anatomy | None = None,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    mask: str | None = None,
    moments: bool = False,
) -> Statistics:
    """Run the parent on calibration batches, keeping sums only; ``moments``: second moments too, for least squares.

    ``mask``: the input that says which positions count. Raises BadData for batches that do not fit.
    """
    from graphclone.statistics import run

    return run.measure(
        model,
        anatomy or inspect(model),
        batches,
        provider=provider,
        threads=threads,
        progress=progress,
        mask=mask,
        moments=moments,
    )


def measure_kept(
    model: Model,
    plan: Plan,
    batches: Iterable[Batch],
    *,
    anatomy: Anatomy | None = None,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    mask: str | None = None,
) -> Statistics | None:
    """The second pass, which knows what is kept: what ``clone`` takes as ``affine``. None where the plan's method has
    no use for it (norm-gain has under LayerNorms that are cut; read-in, pca, depth-patch have). As ``measure``."""
    from graphclone.statistics import run

    anatomy = anatomy or inspect(model)
    if not takes_second_pass(anatomy, plan):
        return None
    return run.measure_kept(
        model, anatomy, plan, batches, provider=provider, threads=threads, progress=progress, mask=mask
    )


def takes_second_pass(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether the plan's method has use for ``measure_kept``."""
    from graphclone.surgery.corrections import passes

    return passes.takes_second_pass(anatomy, plan)


def needs_second_pass(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether ``clone`` refuses the plan without ``measure_kept`` (read-in, pca, depth-patch)."""
    from graphclone.surgery.corrections import passes

    return passes.without_second_pass(anatomy, plan) is not plan


def merge_statistics(paths: Sequence[Path]) -> Statistics:
    """Add up statistics of one parent. Raises BadData, naming the file that does not fit those before it."""
    first, *others = [read_statistics(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        try:
            first = first.merge(other)
        except BadData as reason:
            raise BadData(f"{path} beside {paths[0]}: {reason}") from None
    return first


def read_plan(path: str | Path) -> Plan:
    """Raises BadData for a file that is no plan."""
    return Plan.read(path)


def read_statistics(path: str | Path) -> Statistics:
    """Raises BadData for a file that holds no statistics."""
    from graphclone.statistics.store import Statistics

    return Statistics.read(path)


def plan(
    anatomy: Anatomy,
    stats: Statistics | None,
    target: Target,
    *,
    importance: str = "equal-vote",
    method: str = "best",
    depth: str = "best",
    weights: Batch | None = None,
    tokens: Sequence[int] | None = None,
) -> Plan:
    """Choose what is kept. ``weights``: the parent's constants, for an importance that looks at them.

    tokens: ids of the vocabulary that stay, ascending; with them the target may be empty.
    Raises InvalidTarget for a shape that cannot be reached.
    """
    from graphclone import planner, vocabulary

    if tokens is not None and target.empty:
        return vocabulary.keep(Plan(anatomy.fingerprint, {}, method="none", importance=importance), anatomy, tokens)
    made = planner.plan(anatomy, stats, target, importance=importance, method=method, depth=depth, weights=weights)
    return made if tokens is None else vocabulary.keep(made, anatomy, tokens)


def refuse_unreachable(anatomy: Anatomy, target: Target, *, importance: str, method: str, depth: str) -> None:
    """What ``plan`` and ``greedy_depth`` (``depth`` greedy) would refuse whatever is measured, before anything is.
    Raises InvalidTarget."""
    from graphclone import best, planner
    from graphclone.sizing.judges import GREEDY
    from graphclone.surgery.corrections.passes import refuse_unfit

    if depth == GREEDY:
        from graphclone.sizing import greedy

        greedy.refuse(anatomy, target)
        depth = "paper"
    planner.refuse_unreachable(anatomy, target, importance=importance, method=method, depth=depth)
    refuse_unfit(anatomy, best.settled(method, None, anatomy, target))


def clone(
    model: Model,
    plan: Plan,
    stats: Statistics | None = None,
    *,
    anatomy: Anatomy | None = None,
    affine: Statistics | None = None,
) -> Model:
    """Cut the parent to the plan.

    ``stats`` serves the methods that correct weights by what was measured (norm-gain, least-squares); ``affine``, from
    ``measure_kept``, lets norm-gain fit LayerNorms over the very neurons kept.

    Raises InvalidTarget for a plan of another parent and for statistics that the method lacks, UnsupportedGraph for a
    graph that cannot be cut so.
    """
    from graphclone.surgery.operate import clone as operate

    if plan.parent != model.sha256:
        where = model.path or "the model"
        raise InvalidTarget(f"{where}: the plan was made for another parent (sha256 {plan.parent[:12]}...)")
    return operate(model, anatomy or inspect(model), plan, stats, affine)


def verify(parent: Model, clone: Model, plan: Plan | None = None) -> Report:
    """Examine a clone: the file, each weight against the parent's, the numbers."""
    from graphclone import verification

    return verification.verify(parent, clone, plan)


def save_verified(
    parent: Model, result: Model, path: str | Path, plan: Plan | None = None, *, shard_size: int | None = None
) -> Report:
    """Write a clone, examine the file as written, and only then give it its name.

    Raises VerificationFailed, leaving nothing behind.
    """
    from graphclone import saving

    with staged(path) as draft:
        saving.write(result, draft, shard_size)
        report = verify(parent, load(draft), plan)
        report.raise_if_failed()
    return report


__all__ = [
    "clone",
    "from_torch",
    "greedy_depth",
    "inspect",
    "load",
    "measure",
    "measure_kept",
    "merge_statistics",
    "needs_second_pass",
    "pack",
    "parameters",
    "plan",
    "predict",
    "read_plan",
    "read_statistics",
    "read_tensors",
    "refuse_unreachable",
    "reinitialised",
    "save",
    "save_verified",
    "search",
    "takes_second_pass",
    "to_torch",
    "train",
    "verify",
    "write_hugging_face",
    "write_torch",
]
