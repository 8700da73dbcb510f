"""The search: enumerate, keep what meets the budget, look at the most promising, take the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import plan as make_plan
from graphclone.sizing import candidates
from graphclone.sizing.budget import Budget
from graphclone.sizing.candidates import Shape, Shapes
from graphclone.sizing.census import Census
from graphclone.sizing.scoring import Judge
from graphclone.statistics.importance import score
from graphclone.statistics.store import Statistics
from graphclone.surgery.operate import clone as cut
from graphclone.target import Target
from graphclone.verification.sessions import latency

Array = np.ndarray[Any, Any]
FINALISTS = 8
ROUNDS = 3  # of looking again at smaller shapes, where a prediction of the latency was too kind
Say = Callable[[str], None]


@dataclass(frozen=True)
class Finalist:
    """A shape that was looked at. size: bytes of its weights. score: of its clone before training, None where there was
    no data to judge it on; latency: seconds, None where it was not asked for."""

    shape: Shape
    heads: int
    parameters: int
    size: int
    predicted: float
    score: float | None = None
    latency: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self.shape), **{k: v for k, v in asdict(self).items() if k != "shape"}}


@dataclass(frozen=True)
class Found:
    """The chosen shape as a target, its plan, and all that were looked at, best first. unit: what scores are."""

    target: Target
    plan: Plan
    finalists: tuple[Finalist, ...]
    unit: str
    parent_score: float | None = None


@dataclass(frozen=True)
class How:
    """How neurons, corrections and blocks are chosen, as in ``planner.plan``."""

    importance: str = "equal-vote"
    method: str = "best"
    depth: str = "paper"


def search(
    model: Model,
    anatomy: Anatomy,
    budget: Budget,
    statistics: Statistics | None,
    *,
    how: How | None = None,
    held_out: Iterable[Mapping[str, Array]] = (),
    timed: Mapping[str, Array] | None = None,
    finalists: int = FINALISTS,
    say: Say = lambda text: None,
) -> Found:
    """The shape within the budget whose clone is best before training.

    held_out: batches that judge the finalists; without any the prediction decides. timed: the batch that latency is of.
    Raises InvalidTarget for a budget that no shape meets, and for models whose blocks or stacks differ.
    """
    found = _Search(model, anatomy, budget, statistics, how or How(), Census.of(model, anatomy))
    judged = list(held_out)
    judge = Judge(model, judged) if judged else None
    timed = timed if timed is not None else (judged[0] if judged else None)
    if budget.latency is not None and timed is None:
        raise InvalidTarget("a latency budget needs a batch to time: give --data")
    limits = found.limits(timed)
    factor = 1.0
    for _ in range(ROUNDS if "latency" in limits else 1):
        chosen = found.looked_at(limits, factor, timed, judge, finalists, say)
        meeting = [f for f in chosen if f.latency is None or f.latency <= limits["latency"]]
        if meeting:
            best = meeting[0]
            others = [f for f in chosen if f is not best]
            target = found.target(best.shape)
            plan = found.plan(best.shape)
            parent = None if judge is None else judge.parent()
            return Found(target, plan, (best, *others), judge.unit if judge else "predicted", parent)
        factor *= limits["latency"] / min(f.latency or limits["latency"] for f in chosen)
    raise InvalidTarget(
        f"no shape that was tried meets the latency of {limits['latency'] * 1e3:.3g} ms: the fastest took "
        f"{min(f.latency or 0.0 for f in chosen) * 1e3:.3g} ms"
    )


@dataclass
class _Search:
    model: Model
    anatomy: Anatomy
    budget: Budget
    statistics: Statistics | None
    how: How
    census: Census

    def limits(self, timed: Mapping[str, Array] | None) -> dict[str, float]:
        """Of the budget, in numbers."""
        own: dict[str, Callable[[], float]] = {
            "params": lambda: float(self.anatomy.parameters),
            "size": lambda: float(self._bytes(np.array([self.anatomy.parameters]))[0]),
            "latency": lambda: latency(self.model, timed or {}),
        }
        asked = {name for name in own if getattr(self.budget, name) is not None}
        if not asked:
            raise InvalidTarget("no budget: give at least one of params, size and latency")
        return {name: self.budget.limit(name, own[name]()) or 0.0 for name in sorted(asked)}

    def _bytes(self, parameters: Array) -> Array:
        """Of the weights: every clone stores its numbers as the parent does."""
        held = sum(w.itemsize * int(np.prod(w.shape)) for w in self.census.weights)
        return np.asarray(parameters * (held / self.anatomy.parameters))

    def looked_at(
        self,
        limits: Mapping[str, float],
        factor: float,
        timed: Mapping[str, Array] | None,
        judge: Judge | None,
        count: int,
        say: Say,
    ) -> list[Finalist]:
        """The finalists, best first. ``factor``: of the latency budget that predictions are held against."""
        shapes = candidates.enumerate_shapes(self.anatomy)
        parameters = candidates.parameters(self.census, shapes)
        scores = score(self.how.importance, self.anatomy, self.statistics, self.model.constants())
        predicted = candidates.predicted_loss(self.anatomy, scores, self.statistics, shapes)
        used = np.zeros(len(shapes))
        if "params" in limits:
            used = np.maximum(used, parameters / limits["params"])
        if "size" in limits:
            used = np.maximum(used, self._bytes(parameters) / limits["size"])
        if "latency" in limits and timed is not None:
            used = np.maximum(used, self._seconds(shapes, parameters, timed) / (limits["latency"] * factor))
        found = []
        for index in candidates.shortlist(shapes, predicted, used, count):
            shape = shapes[index]
            size = int(self._bytes(parameters[index : index + 1])[0])
            one = Finalist(shape, shape.heads(self.anatomy), int(parameters[index]), size, float(predicted[index]))
            found.append(self._examined(one, timed if "latency" in limits else None, judge))
            say(f"looked at {len(found)} of {count}: {found[-1].shape}")
        return sorted(found, key=lambda f: (0.0 if f.score is None else f.score, f.predicted))

    def _examined(self, one: Finalist, timed: Mapping[str, Array] | None, judge: Judge | None) -> Finalist:
        if timed is None and judge is None:
            return one
        clone = cut(self.model, self.anatomy, self.plan(one.shape), self.statistics)
        seconds = None if timed is None else latency(clone, timed)
        return replace(one, score=None if judge is None else judge.score(clone), latency=seconds)

    def _seconds(self, shapes: Shapes, parameters: Array, timed: Mapping[str, Array]) -> Array:
        """Predicted latency: a cost a run, one a layer, one a parameter, fitted on shapes that ONNX Runtime ran.

        The finalists are timed themselves: this only has to be near.
        """
        full = candidates.whole(self.anatomy)
        half = Shape(max(full.hidden // 64 * 32, 1), full.kv_heads, full.ffn, full.layers)
        tried = [replace(full, layers=1), replace(full, layers=max(2, full.layers // 2)), half, replace(half, layers=1)]
        plans = [self.plan(shape, Target(**self._sizes(shape))) for shape in tried]
        times = [latency(cut(self.model, self.anatomy, p, None), timed, runs=3) for p in plans]
        columns = Shapes(*(np.array([getattr(s, f) for s in tried]) for f in ("hidden", "kv_heads", "ffn", "layers")))
        counts = candidates.parameters(self.census, columns)
        system = np.stack([np.ones(len(tried)), columns.layers, counts], axis=1)
        scale = np.abs(system).max(axis=0)
        cost = np.linalg.lstsq(system / scale, np.array(times), rcond=None)[0] / scale
        predicted = np.stack([np.ones(len(shapes)), shapes.layers, parameters], axis=1) @ np.maximum(cost, 0.0)
        return np.asarray(predicted)

    def _sizes(self, shape: Shape) -> dict[str, Any]:
        sizes: dict[str, Any] = {**asdict(shape), "heads": shape.heads(self.anatomy)}
        full: dict[str, Any] = asdict(candidates.whole(self.anatomy))
        full["heads"] = candidates.whole(self.anatomy).heads(self.anatomy)
        asked = {name: size for name, size in sizes.items() if size != full[name]}
        if "kv_heads" in asked or "heads" in asked:
            asked |= {"kv_heads": sizes["kv_heads"], "heads": sizes["heads"]}
        return asked or {"layers": sizes["layers"]}

    def target(self, shape: Shape) -> Target:
        """A shape as a target: what is as the parent has it is left out."""
        return Target(**self._sizes(shape))

    def plan(self, shape: Shape, plain: Target | None = None) -> Plan:
        """The plan of a shape; ``plain``: of a target without regard to what matters."""
        if plain is not None:
            return make_plan(self.anatomy, None, plain, importance="first", method="none")
        return make_plan(
            self.anatomy,
            self.statistics,
            self.target(shape),
            importance=self.how.importance,
            method=self.how.method,
            depth=self.how.depth,
            weights=self.model.constants(),
        )
