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
    """Open an ONNX file, or the one in a folder; its weights stay on disk.

    Raises BadModel for a file that is missing, truncated or not ONNX, and for external data that is missing, too short
    or outside the model's folder; UnsupportedGraph for packed weights that cannot be read as numbers.
    """
    from graphclone import graph

    return graph.load(path)


def save(model: Model, path: str | Path, shard_size: int | None = None) -> None:
    """Write a model atomically: the old file or the new one is there, never a part.

    Weights above 1 GB go to ``<name>.<digest>.data`` beside it; with ``shard_size``, in bytes, to as many files as it
    takes. Raises BadModel where it cannot be written, InvalidTarget for a path that holds the model's own weights.
    """
    from graphclone import saving

    saving.save(model, path, shard_size)


def inspect(model: Model) -> Anatomy:
    """Trace the graph: its stacks of blocks, their parts, and what can be cut.

    Raises UnsupportedGraph for an operator that meets traced neurons and has no row, and where no block repeats.
    """
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
    """Run the parent on calibration batches in ONNX Runtime and keep sums alone.

    batches: mappings from input names to arrays [batch, ...]; masks, positions and other inputs that they lack are
    filled by rule. mask: the input that is 0 where a position does not count (default: the attention mask). moments:
    second moments [width, width] too, for least squares. provider: auto, cpu or cuda. ``progress(done, total)`` follows
    each batch.

    Raises BadData for batches that do not fit and activations that are not finite, InvalidTarget for a provider that is
    not there, a mask that is no input, or an anatomy of another model.
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
    """Measure once more, now that it is known which neurons stay: what ``clone`` takes as ``affine``.

    None where the plan's method has no use for it (norm-gain has under LayerNorms that are cut; read-in, pca and
    depth-patch have). Options and errors as for ``measure``; BadData too for batches that can be read only once where
    they are read several times: give a list, or what ``open_source`` opens.
    """
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
    """Add up statistics of one parent. Raises BadData, naming the file, for one of another parent, other settings or
    sites, and for data that is in two of them."""
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
    """Choose what is kept: for each group the neurons that score highest, and of the blocks those that ``depth`` says.

    stats: what ``measure`` gave; None for importances and depths that need none. importance: a row of
    statistics/importance.py. method: ``best``, ``none``, or passes of surgery/corrections joined by +. depth: a row of
    statistics/depth.py (instead of ``greedy`` see ``greedy_depth``). weights: the parent's initializers by name
    (``Model.constants``), for an importance that looks at them. tokens: ids of the vocabulary that stay, ascending;
    with them the target may be empty.

    Raises InvalidTarget for a shape that cannot be reached (naming those nearest), for what is pinned, for unknown
    names, and for statistics that are missing or of another parent; BadData for statistics that are not of its sites.
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
    """Cut the parent to the plan. Large weights of the clone are computed when it is saved or run; ``model`` stays.

    stats: what ``measure`` gave, for the methods that correct weights by it (norm-gain, least-squares). affine: what
    ``measure_kept`` gave, for those that take a second pass; norm-gain does without.

    Raises InvalidTarget for a plan of another parent and for statistics that the method lacks, UnsupportedGraph for a
    graph that cannot be cut so.
    """
    from graphclone.surgery.operate import clone as operate

    if plan.parent != model.sha256:
        where = model.path or "the model"
        raise InvalidTarget(f"{where}: the plan was made for another parent (sha256 {plan.parent[:12]}...)")
    return operate(model, anatomy or inspect(model), plan, stats, affine)


def verify(parent: Model, clone: Model, plan: Plan | None = None) -> Report:
    """Examine a clone: the file, each weight against the parent's, the numbers. It is run in ONNX Runtime.

    plan: what it should have been made by; by default the one that it carries. Every fault is a failed check of the
    report, which raises nothing by itself: call ``raise_if_failed`` (VerificationFailed).
    """
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
