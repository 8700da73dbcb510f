"""`clone --tournament`: which starts meet, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphclone import pipeline, tournament
from graphclone.cli import cloning, show
from graphclone.sizing.judges import GREEDY, judging, measured
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.sizing.searching import Found
    from graphclone.statistics.store import Statistics
    from graphclone.target import Target
    from graphclone.vocabulary import Tokens

Batch = Mapping[str, Any]


def read(text: str) -> tournament.Training:
    """``300``, or ``300@3e-3``: steps, and their learning rate. Raises typer.BadParameter."""
    steps, _, rate = text.partition("@")
    try:
        made = tournament.Training(int(steps), float(rate or tournament.RATE))
    except ValueError:
        made = tournament.Training(0)
    if made.steps < 1 or not made.learning_rate > 0:
        raise typer.BadParameter(
            f"--tournament {text!r}: write steps such as 300, or steps and learning rate such as 300@3e-3"
        )
    return made


def field(
    parent: Model,
    anatomy: Anatomy,
    statistics: Statistics | None,
    asked: Mapping[str, str],
    calibration: request.Calibration,
    batches: Iterable[Batch],
) -> tournament.Field:
    """Clones of a parent that was measured on ``batches``; the second pass is over the same."""

    def kept(plan: Plan) -> Statistics | None:
        return pipeline.measure_kept(
            parent, plan, batches, anatomy=anatomy, provider=calibration.provider, threads=calibration.threads
        )

    return tournament.Field(parent, anatomy, statistics, asked, kept)


def rounds(
    entered: tournament.Field, target: Target, found: Found | None
) -> list[Callable[[tournament.Entrant | None], Sequence[tournament.Entrant]]]:
    """Shapes of one budget first, where a budget was asked for, then methods at the shape that won."""

    def shapes(best: tournament.Entrant | None) -> Sequence[tournament.Entrant]:
        from graphclone.sizing.candidates import target_of

        chosen = [one.shape for one in found.finalists[: tournament.SHAPES]] if found else []
        parent = entered.anatomy
        return [entered.entrant(target_of(shape, parent), name=shape.words(parent)) for shape in chosen]

    def methods(best: tournament.Entrant | None) -> Sequence[tournament.Entrant]:
        return entered.methods(best.target if best is not None and best.target is not None else target)

    return [shapes, methods]


def choose(parent: Model, anatomy: Anatomy, wish: cloning.Wish, tokens: Tokens | None) -> cloning.Chosen:
    """What ``cloning.choose`` comes to where a tournament decides. Clones meet with all of their parent's tokens."""
    from graphclone.vocabulary import keep

    if wish.plan or wish.stats or wish.calibration is None or wish.depth == GREEDY:
        raise typer.BadParameter(
            "--tournament trains clones on the data: give --data, and neither --plan, --stats nor --depth greedy"
        )
    assert wish.tournament is not None
    pipeline.refuse_unreachable(anatomy, wish.target.whole, **wish.how())
    calibration = cloning.with_moments(wish, None)
    assert calibration is not None
    source = request.open_data(parent, calibration)
    show.data("measuring", source)
    others = measured(source)
    with show.progress("measuring") as tick:
        held = request.calibrate(parent, anatomy, calibration, progress=tick, source=others)
    judged = judging(source)
    found = None
    if wish.budget is not None:
        found = cloning.within(parent, anatomy, wish, held, judged, tokens)
    entered = field(parent, anatomy, held, wish.how(), calibration, others)
    tokenizer = Path(calibration.tokenizer) if calibration.tokenizer else None
    training = replace(wish.tournament, seed=calibration.seed, tokenizer=tokenizer)
    meet = rounds(entered, wish.target, found)
    result = tournament.hold(meet, others, judged, training, parent=parent, say=show.say)
    show.say(f"tournament: {result.winner.name} wins after {training.steps} steps; {result.seconds:.0f} s in all")
    plan = keep(result.winner.plan, anatomy, tokens.kept) if tokens else result.winner.plan
    return cloning.Chosen(plan, held, entered.kept(plan), result, found)


def print_standings(result: tournament.Result | None) -> None:
    """The table of `clone --tournament`, where there was one."""
    if result is None:
        return
    rows = [
        (s.name, s.importance, s.method, s.parameters, s.before, s.score, f"{s.seconds:.0f} s")
        for s in result.standings
    ]
    head = ("start", "importance", "method", "parameters", "loss before", "loss after", "took")
    show.table(head, rows, f"Tournament ({result.task}, best first; {result.seconds:.0f} s in all)")
    print()
