"""What the pass does between two files: measure, plan, cut, examine, and the files beside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphclone import folders, pipeline, side_files
from graphclone.anatomy.parts import Anatomy
from graphclone.best import takes_moments
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.olive.options import BUDGET, HOW, TARGET
from graphclone.plan import Plan
from graphclone.side_files.sizes import changes
from graphclone.side_files.update import Update
from graphclone.sizing.budget import Budget
from graphclone.sizing.clock import Clock
from graphclone.sizing.judges import judging, measured
from graphclone.statistics import request
from graphclone.statistics.calibration import Source, open_source
from graphclone.statistics.store import Statistics
from graphclone.target import Target

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Asked:
    """The options as given; ``batches`` of Olive's own data_config, instead of ``data``. say: one line of progress."""

    options: Mapping[str, Any]
    batches: Callable[[], Batches] | None
    provider: str
    say: Callable[[str], None]

    @property
    def target(self) -> Target:
        """Sizes."""
        sizes: dict[str, Any] = {name: self.options.get(name) for name in TARGET}
        return Target(**sizes)

    @property
    def budget(self) -> Budget:
        """Limits."""
        return Budget(**{name: self.options.get(name) for name in BUDGET})

    @property
    def how(self) -> dict[str, Any]:
        """Ranking, correction, depth."""
        return {name: self.options[name] for name in HOW}

    @property
    def run(self) -> dict[str, Any]:
        """Where ONNX Runtime runs, to measure and to time."""
        return {"provider": self.provider, "threads": self.options["threads"]}

    def refuse(self) -> None:
        """What can be said before a model is there. Raises InvalidTarget."""
        sources = [n for n in ("data", "stats") if self.options.get(n)] + ["data_config"] * (self.batches is not None)
        if len(sources) > 1:
            raise InvalidTarget(f"GraphClone: {' and '.join(sources)} both say what is measured: give one of them")
        if self.target.empty and self.budget.empty:
            raise InvalidTarget(f"GraphClone: asks for no size: give {', '.join(TARGET)}, or {', '.join(BUDGET)}")
        if not self.target.empty and not self.budget.empty:
            raise InvalidTarget(f"GraphClone: {', '.join(BUDGET)} choose the sizes: give no sizes with them")


@dataclass(frozen=True)
class Made:
    """The anatomies of both, the plan, and what was written beside the clone."""

    parent: Anatomy
    clone: Anatomy
    plan: Plan
    beside: side_files.Written

    def updated(self, attributes: Mapping[str, Any], file: str) -> tuple[dict[str, Any], list[str]]:
        """A configuration that was the parent's, as Olive carries one along, and what in it is not up to date."""
        update = Update(changes(self.parent, self.clone, self.plan), None, file)
        return update.scope(attributes, ""), update.warnings


def make(source: Path, out: Path, asked: Asked) -> Made:
    """Cut the model ``source`` into ``out``, which gets its name once examined; configurations beside it are brought up
    to date. Raises GraphCloneError."""
    asked.refuse()
    parent = pipeline.load(source)
    anatomy = pipeline.inspect(parent)
    pipeline.refuse_unreachable(anatomy, asked.target.whole, **asked.how)
    batches = _batches(parent, asked)
    judged = batches is not None and not asked.budget.empty
    others = measured(batches) if batches is not None and judged else batches
    statistics = _statistics(parent, anatomy, asked, others)
    plan = _plan(parent, anatomy, asked, statistics, judging(batches) if batches is not None and judged else [])
    affine = None
    if others is not None and pipeline.takes_second_pass(anatomy, plan):
        affine = pipeline.measure_kept(parent, plan, others, anatomy=anatomy, **asked.run)
    made = pipeline.clone(parent, plan, statistics, anatomy=anatomy, affine=affine)
    report = pipeline.save_verified(parent, made, out, plan)
    asked.say(f"{out.name}: {report.summary}")
    after = pipeline.inspect(pipeline.load(out))
    beside = side_files.Written()
    if any((folders.home(source) / name).is_file() for name in folders.CONFIGURATIONS):
        beside = side_files.write(source, out, anatomy, after, plan)
    return Made(anatomy, after, plan, beside)


def _batches(parent: Model, asked: Asked) -> Source | None:
    if asked.batches is not None:
        wanted = frozenset(given.name for given in parent.graph.inputs)
        return open_source(_Fed(asked.batches, wanted), parent, limit=asked.options["limit"])
    if not asked.options.get("data"):
        return None
    how = {name: asked.options[name] for name in ("tokenizer", "length", "batch_size", "limit", "seed", "column")}
    return request.open_data(parent, request.Calibration(asked.options["data"], **how, images=asked.options["images"]))


@dataclass(frozen=True)
class _Fed:
    """Batches that can be read again, of the model's inputs alone: data sets hold labels and more."""

    batches: Callable[[], Batches]
    inputs: frozenset[str]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return ({k: v for k, v in batch.items() if k in self.inputs} for batch in self.batches())


def _statistics(parent: Model, anatomy: Anatomy, asked: Asked, batches: Batches | None) -> Statistics | None:
    if batches is None:
        return pipeline.read_statistics(asked.options["stats"]) if asked.options.get("stats") else None
    moments = takes_moments(asked.options["method"], asked.target, budget=not asked.budget.empty)
    return pipeline.measure(parent, batches, anatomy=anatomy, moments=moments, **asked.run)


def _plan(parent: Model, anatomy: Anatomy, asked: Asked, held: Statistics | None, judges: list[Any]) -> Plan:
    if asked.budget.empty:
        return pipeline.plan(anatomy, held, asked.target, **asked.how, weights=parent.constants())
    how = {**asked.how, "clock": Clock(**asked.run), "say": asked.say}
    return pipeline.search(parent, held, asked.budget, anatomy=anatomy, held_out=judges, **how).plan
