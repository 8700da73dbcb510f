"""The search: enumerate, keep what meets the budget, look at the most promising, take the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from graphclone import saving
from graphclone.anatomy.parts import Anatomy
from graphclone.best import depth_beside, settled
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import plan as make_plan
from graphclone.sizing import candidates
from graphclone.sizing.budget import Budget
from graphclone.sizing.candidates import Shape, Shapes
from graphclone.sizing.census import Census, unties
from graphclone.sizing.clock import Clock
from graphclone.sizing.judges import GREEDY
from graphclone.sizing.prediction import size_of
from graphclone.sizing.scoring import Judge
from graphclone.statistics.importance import score
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections import passes
from graphclone.surgery.operate import clone as cut
from graphclone.target import Target
from graphclone.vocabulary import keep

Array = np.ndarray[Any, Any]
FINALISTS = 8
NOTE = 256  # bytes in the clone's metadata, at most, of what a second pass did to a weight
ROUNDS = 3  # of looking again at smaller shapes, where a prediction of bytes or latency was too kind
Say = Callable[[str], None]


@dataclass(frozen=True)
class Finalist:
    """A shape that was looked at. size: bytes of its clone's files, None where it was not cut. score: of its clone
    before training, None where there was no data to judge it on; latency: seconds, None where it was not asked for."""

    shape: Shape
    heads: int
    parameters: int
    predicted: float
    size: int | None = None
    score: float | None = None
    latency: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self.shape), **{k: v for k, v in asdict(self).items() if k != "shape"}}

    def within(self, limits: Mapping[str, float]) -> bool:
        """Does what was measured of it meet the budget?"""
        return all(
            value is None or value <= limits.get(name, value)
            for name, value in (("params", self.parameters), ("size", self.size), ("latency", self.latency))
        )


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
    """How neurons, corrections and blocks are chosen, as in ``planner.plan``. tokens: ids of the vocabulary that stay,
    None for all; clones are judged with all of them, as a shorter table alone changes no ranking."""

    importance: str = "equal-vote"
    method: str = "best"
    depth: str = "best"
    tokens: Sequence[int] | None = None


def search(
    model: Model,
    anatomy: Anatomy,
    budget: Budget,
    statistics: Statistics | None,
    *,
    how: How | None = None,
    held_out: Iterable[Mapping[str, Array]] = (),
    mask: str | None = None,
    clock: Clock | None = None,
    finalists: int = FINALISTS,
    say: Say = lambda text: None,
) -> Found:
    """The shape within the budget whose clone is best before training.

    held_out: batches that judge the finalists; without any the prediction decides. mask: the input that says which of
    their positions count. clock: what latency is of.
    Raises InvalidTarget for a budget that no shape meets, and for models whose blocks or stacks differ.
    """
    how = how or How()
    if how.depth == GREEDY:
        raise InvalidTarget("depth greedy drops blocks to a number of layers: beside a budget choose another")
    passes.refuse_unfit(anatomy, settled(how.method, statistics, anatomy, Target().whole))
    found = _Search(model, anatomy, budget, statistics, how, clock or Clock(), Census.of(model, anatomy))
    judged = list(held_out)
    judge = Judge(model, judged, mask) if judged else None
    limits = found.limits()
    goals = dict(limits)
    for _ in range(ROUNDS):
        chosen = found.looked_at(goals, judge, finalists, say)
        meeting = [f for f in chosen if f.within(limits)]
        if meeting:
            best = meeting[0]
            others = [f for f in chosen if f is not best]
            parent = None if judge is None else judge.parent()
            unit, plan = judge.unit if judge else "predicted", found.plan(best.shape)
            if passes.without_second_pass(anatomy, plan) is not plan:
                say(f"shapes are looked at without what {plan.method} measures once more: that is for the chosen one")
            return Found(found.target(best.shape), plan, (best, *others), unit, parent)
        for name in goals.keys() - {"params"}:
            goals[name] *= min(1.0, limits[name] / min(getattr(f, name) or limits[name] for f in chosen))
    near = sorted(chosen, key=lambda f: (f.latency or 0.0, f.size or 0))[: candidates.NEAREST]
    raise InvalidTarget(
        f"no shape that was tried meets {found.said(limits)}; nearest: "
        + "; ".join(f"{f.shape.words(anatomy)} with {found.said(f.__dict__, limits)}" for f in near)
    )


@dataclass
class _Search:
    model: Model
    anatomy: Anatomy
    budget: Budget
    statistics: Statistics | None
    how: How
    clock: Clock
    census: Census

    def limits(self) -> dict[str, float]:
        """Of the budget, in numbers; shares are of the parent as it is."""
        own: dict[str, Callable[[], float]] = {
            "params": lambda: float(self.anatomy.parameters),
            "size": lambda: float(size_of(self.model)),
            "latency": lambda: self.clock.seconds(self.model),
        }
        asked = {name for name in own if getattr(self.budget, name) is not None}
        if not asked:
            raise InvalidTarget("no budget: give at least one of params, size and latency")
        return {name: self.budget.limit(name, own[name]()) or 0.0 for name in sorted(asked)}

    def said(self, amounts: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
        """Amounts of a budget in words."""
        return ", ".join(
            candidates.AMOUNTS[name](amounts[name]) for name in sorted(names or amounts) if amounts.get(name)
        )

    def looked_at(self, goals: Mapping[str, float], judge: Judge | None, count: int, say: Say) -> list[Finalist]:
        """The finalists, best first. goals: what predictions are held against."""
        shapes = candidates.enumerate_shapes(self.anatomy)
        parameters = self._parameters(shapes)
        scores = score(self.how.importance, self.anatomy, self.statistics, self.model.constants())
        depth = depth_beside(self.how.method, self.how.depth)
        predicted = candidates.predicted_loss(self.anatomy, scores, self.statistics, shapes, depth)
        amounts = {"params": parameters}
        if "size" in goals:
            amounts["size"] = self._bytes(shapes, parameters)
        if "latency" in goals:
            amounts["latency"] = self._seconds(shapes)
        found = []
        for index in candidates.shortlist(shapes, predicted, amounts, goals, count, self.anatomy):
            shape = shapes[index]
            one = Finalist(shape, shape.heads(self.anatomy), int(parameters[index]), float(predicted[index]))
            found.append(self._examined(one, goals, judge))
            say(f"looked at {len(found)} of {count}: {shape.words(self.anatomy)}")
        return sorted(found, key=lambda f: (0.0 if f.score is None else f.score, f.predicted))

    def _parameters(self, shapes: Shapes) -> Array:
        tokens = None if self.how.tokens is None else len(self.how.tokens)
        return candidates.parameters(self.census, shapes, tokens, untied=unties(self.how.method))

    def _examined(self, one: Finalist, goals: Mapping[str, float], judge: Judge | None) -> Finalist:
        """Cut, as far as that tells more. With fewer tokens than the parent it is judged with all."""
        if judge is None and not goals.keys() - {"params"}:
            return one
        plan = self.plan(one.shape)
        clone = self._cut(plan)
        seconds = self.clock.clone(self.model, self.anatomy, plan, clone) if "latency" in goals else None
        size = saving.size(clone) + self._left_out(plan)
        if judge is not None and self.how.tokens is not None:
            clone = self._cut(self.plan(one.shape, tokens=False))
        return replace(one, size=size, score=None if judge is None else judge.score(clone), latency=seconds)

    def _cut(self, plan: Plan) -> Model:
        """The clone of a plan; a second pass over the data is for the one that is chosen."""
        return cut(self.model, self.anatomy, passes.without_second_pass(self.anatomy, plan), self.statistics)

    def _left_out(self, plan: Plan) -> int:
        """The most bytes that a second pass adds: heads that are untied, and what is noted of each weight."""
        if passes.without_second_pass(self.anatomy, plan) is plan:
            return 0
        return self.census.untied(plan)[1] + NOTE * len(self.census.weights)

    def _bytes(self, shapes: Shapes, parameters: Array) -> Array:
        """Predicted bytes of the files: every clone stores its numbers as the parent does, beside a graph that is much
        the same. The finalists' own are exact."""
        each = sum(w.itemsize * int(np.prod(w.shape)) for w in self.census.weights) / self.anatomy.parameters
        layers = (1, candidates.whole(self.anatomy).layers)
        beside = []
        for count in layers:
            plain = self._plain(replace(self._tried(shapes)[-1], layers=count))
            beside.append(
                saving.size(cut(self.model, self.anatomy, plain)) - each * (self.census.parameters(plain) or 0)
            )
        return np.asarray(parameters * each + np.interp(shapes.layers, layers, beside))

    def _seconds(self, shapes: Shapes) -> Array:
        """Predicted latency: what the ends take and what a block takes, each a constant and a cost a parameter, fitted
        on one block of a few shapes that ONNX Runtime ran.

        The finalists are timed themselves: this only has to be near.
        """
        tried = self._tried(shapes)
        rows, times = [], []
        for shape in tried:
            ends, blocks = self._split(replace(shape, layers=1))
            for layers in (1, min(3, candidates.whole(self.anatomy).layers)):
                rows.append([1.0, ends, layers, layers * blocks])
                plain = self._plain(replace(shape, layers=layers))
                times.append(self.clock.seconds(cut(self.model, self.anatomy, plain)))
        system = np.array(rows)
        scale = np.abs(system).max(axis=0)
        cost = np.maximum(np.linalg.lstsq(system / scale, np.array(times), rcond=None)[0], 0.0) / scale
        single = Shapes(shapes.hidden, shapes.kv_heads, shapes.ffn, np.ones_like(shapes.layers))
        one, two = self._parameters(single), self._parameters(replace(single, layers=2 * single.layers))
        columns = [np.ones(len(shapes)), 2 * one - two, shapes.layers, shapes.layers * (two - one)]
        return np.asarray(np.stack(columns, axis=1) @ cost)

    def _split(self, shape: Shape) -> tuple[float, float]:
        """Parameters of the ends, and of a block."""
        hidden, kv_heads, ffn = (np.array([size] * 2) for size in (shape.hidden, shape.kv_heads, shape.ffn))
        pair = Shapes(hidden, kv_heads, ffn, np.array([1, 2]))
        one, two = self._parameters(pair)
        return float(2 * one - two), float(two - one)

    def _tried(self, shapes: Shapes) -> list[Shape]:
        """Shapes that tell ends and blocks apart: the parent's, and it with fewer neurons, or narrower."""
        full = candidates.whole(self.anatomy)
        ffn, hidden = (int(sizes[sizes.size // 2]) for sizes in (np.unique(shapes.ffn), np.unique(shapes.hidden)))
        return [full, replace(full, ffn=ffn), replace(full, hidden=hidden)]

    def target(self, shape: Shape) -> Target:
        """A shape as a target."""
        return candidates.target_of(shape, self.anatomy)

    def _plain(self, shape: Shape) -> Plan:
        """The plan of a shape without regard to what matters."""
        made = make_plan(self.anatomy, None, self.target(shape), importance="first", method="none")
        return self._with_tokens(made)

    def _with_tokens(self, plan: Plan) -> Plan:
        return plan if self.how.tokens is None else keep(plan, self.anatomy, self.how.tokens)

    def plan(self, shape: Shape, *, tokens: bool = True) -> Plan:
        """The plan of a shape; ``tokens``: of those asked for alone, where any were."""
        made = make_plan(
            self.anatomy,
            self.statistics,
            self.target(shape),
            importance=self.how.importance,
            method=self.how.method,
            depth=self.how.depth,
            weights=self.model.constants(),
        )
        return self._with_tokens(made) if tokens else made
