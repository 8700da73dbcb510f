"""The init tournament: several ways to make a clone, each trained a few steps on the user's data; the best is kept.

What a clone loses before training says little of how it trains (docs/decisions/0012), and which method wins depends on
the parent and the cut; a few hundred steps tell. First shapes of one budget meet, where there are several, then
methods at the winner's shape. Every step is charged: each entrant's seconds are in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from graphclone.errors import BadData, InvalidTarget

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.statistics.store import Statistics
    from graphclone.target import Target

Batch = Mapping[str, Any]
EVALUATIONS = 10  # on the way
SMOOTHED = 3  # the last of them, whose mean is the score
SHAPES = 3  # of a budget's, at most
RATE = 1e-3
WORST = float("inf")  # the score of a start that trains to no number


@dataclass(frozen=True)
class Method:
    """A way to choose and correct, as ``plan`` takes it. None: as the user asked."""

    name: str
    importance: str | None = None
    method: str | None = None
    depth: str | None = None


METHODS: tuple[Method, ...] = (
    Method("as asked"),
    Method("the middle blocks go", depth="paper"),
    Method("the paper's", "paper", "paper", "paper"),
    Method("weights scaled as by the paper", method="paper"),
    Method("norms and products corrected", method="norm-gain+least-squares"),
    Method("evenly spaced neurons", importance="uniform"),
    Method("the first neurons", importance="first"),
)
"""The last two win where a few neurons hold most of the variance, as under some LayerNorms."""


@dataclass(frozen=True)
class Entrant:
    """One start. make: the clone of the plan."""

    name: str
    plan: Plan
    make: Callable[[], Model]
    target: Target | None = None


@dataclass(frozen=True)
class Field:
    """What clones are made from, and how the user asked for them. kept: the second pass over what a plan keeps."""

    parent: Model
    anatomy: Anatomy
    statistics: Statistics | None
    asked: Mapping[str, str]  # importance, method, depth
    kept: Callable[[Plan], Statistics | None] = lambda plan: None

    def entrant(self, target: Target, method: Method = METHODS[0], name: str = "") -> Entrant:
        """The clone of a shape by a method. Raises what ``plan`` raises."""
        from graphclone.planner import plan

        own = {key: getattr(method, key) or self.asked[key] for key in ("importance", "method", "depth")}
        made = plan(self.anatomy, self.statistics, target, weights=self.parent.constants(), **own)
        return Entrant(name or method.name, made, lambda: self._clone(made), target)

    def methods(self, target: Target) -> list[Entrant]:
        """The clones of a shape by every method that can make it; that which was asked for has to."""
        found = [self.entrant(target)]
        for method in METHODS[1:]:
            try:
                found.append(self.entrant(target, method))
            except InvalidTarget:
                continue  # it says nothing about this parent, or lacks statistics
        return found

    def _clone(self, plan: Plan) -> Model:
        from graphclone.surgery.operate import clone

        return clone(self.parent, self.anatomy, plan, self.statistics, self.kept(plan))


@dataclass(frozen=True)
class Training:
    """How every entrant is trained: as ``train`` does it, for ``steps``. task: a row of its tasks, None for what the
    graph looks made for. teacher: the parent, for tasks that learn from one."""

    steps: int
    learning_rate: float = RATE
    task: str | None = None
    seed: int = 0
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Standing:
    """How an entrant did. losses: (steps done, held-out loss); score: the mean of the last, lower is better."""

    name: str
    importance: str
    method: str
    parameters: int
    losses: tuple[tuple[int, float], ...]
    score: float
    seconds: float

    @property
    def before(self) -> float | None:
        """Held-out loss before any training; None where training ended in no number, which left no losses."""
        return self.losses[0][1] if self.losses else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """All standings, best first, and the winner."""

    winner: Entrant
    standings: tuple[Standing, ...]
    task: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        held = [standing.as_dict() for standing in self.standings]
        return {"winner": self.winner.name, "task": self.task, "seconds": self.seconds, "standings": held}


def hold(
    rounds: Sequence[Callable[[Entrant | None], Sequence[Entrant]]],
    batches: Iterable[Batch],
    held_out: Sequence[Batch],
    training: Training,
    *,
    parent: Model,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Let entrants meet, round after round; a round is told the winner so far and names who else competes.

    Entrants of one plan are trained once; one that diverges is the worst. Raises BadData where nothing is held out,
    InvalidTarget where fewer than two different clones compete or all diverge, and what else ``train`` raises.
    """
    if not held_out:
        raise BadData("a tournament is judged on data that nobody trains on: give at least five batches")
    began = time.monotonic()
    trained, met, best = list(batches), dict[str, Standing](), None
    task = training.task or task_of(parent)
    for entrants in rounds:
        for entrant in entrants(best):
            key = _key(entrant.plan)
            if key in met:
                continue
            met[key] = _trained(entrant, trained, held_out, training, task, parent)
            say(f"{entrant.name}: {_told(met[key])}, {met[key].seconds:.0f} s")
            if best is None or met[key].score < met[_key(best.plan)].score:
                best = entrant
    if best is None or len(met) < 2:
        raise InvalidTarget("a tournament takes two different clones at least: this target leaves nothing to choose")
    if met[_key(best.plan)].score == WORST:
        raise InvalidTarget(f"every start of the tournament diverged: try a lower rate than {training.learning_rate:g}")
    standings = tuple(sorted(met.values(), key=lambda standing: standing.score))
    return Result(best, standings, task, time.monotonic() - began)


def _told(standing: Standing) -> str:
    if standing.before is None:
        return "diverged"
    return f"held-out loss {standing.before:.4g} -> {standing.score:.4g}"


def _key(plan: Plan) -> str:
    """Equal for plans that make the same clone."""
    held = asdict(plan) | {"importance": "", "target": {}}
    return repr(sorted(held.items()))


def task_of(model: Model) -> str:
    """The task that a model looks made for: the next token where it gives a logit a token, hidden ones where those
    logits look ahead, else its own embedding."""
    from graphclone.causality import tells_next
    from graphclone.pytorch.training.tasks import LOGITS

    tokens = "input_ids" in {tensor.name for tensor in model.graph.inputs}
    found = next((t.name for t in model.graph.outputs if t.name in LOGITS), None)
    if not tokens or found is None:
        return "embedding"
    return "masked-lm" if tells_next(model, found) is False else "causal-lm"


def _trained(
    entrant: Entrant,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    training: Training,
    task: str,
    parent: Model,
) -> Standing:
    from graphclone.anatomy import inspect
    from graphclone.in_torch import train
    from graphclone.pytorch.training import TASKS, TrainingDiverged, TrainingOptions

    began = time.monotonic()
    clone = entrant.make()
    options = TrainingOptions(
        steps=training.steps,
        learning_rate=training.learning_rate,
        task=task,
        evaluate_every=max(1, training.steps // EVALUATIONS),
        seed=training.seed,
    )
    teacher = parent if task in TASKS and TASKS[task].needs_teacher else None
    evaluated: list[tuple[int, float]] = []
    with suppress(TrainingDiverged):  # the others go on; one that is left without losses is the worst
        _, history = train(clone, batches, options, held_out=held_out, teacher=teacher, tokenizer=training.tokenizer)
        evaluated = history.evaluations
    return Standing(
        entrant.name,
        entrant.plan.importance,
        entrant.plan.method,
        inspect(clone).parameters,
        tuple(evaluated),
        score(evaluated),
        time.monotonic() - began,
    )


def score(evaluations: Sequence[tuple[int, float]]) -> float:
    """The mean of the last held-out losses, the one before training left out. A loss that is no number is the worst.

    >>> score([(0, 9.0), (10, 5.0), (20, 4.0), (30, 3.0), (40, 2.0)])
    3.0
    """
    last = [loss for step, loss in evaluations if step][-SMOOTHED:]
    found = fmean(last) if last else WORST
    return found if found == found else WORST
