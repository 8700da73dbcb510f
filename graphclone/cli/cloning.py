"""What `clone` does between reading the parent and writing the clone: measure, plan, measure again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphclone import outputs, pipeline
from graphclone.cli import describe, show
from graphclone.plan import BEST
from graphclone.sizing.judges import GREEDY, judging, measured
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.planner import Target
    from graphclone.sizing.budget import Budget
    from graphclone.sizing.clock import Clock
    from graphclone.sizing.searching import Found
    from graphclone.statistics.store import Statistics
    from graphclone.tournament import Result, Training
    from graphclone.vocabulary import Tokens


Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Wish:
    """A target, or a plan made before; and what is known of the parent, or where it is measured."""

    target: Target
    plan: Path | None
    stats: Path | None
    calibration: request.Calibration | None
    importance: str
    method: str
    depth: str
    budget: Budget | None = None
    tournament: Training | None = None
    clock: Clock | None = None

    @property
    def judges(self) -> bool:
        """Whether something is chosen by trying it on data that was not measured."""
        return self.budget is not None or self.depth == GREEDY

    def how(self) -> dict[str, str]:
        """As ``pipeline.plan`` takes it."""
        return {"importance": self.importance, "method": self.method, "depth": self.depth}


@dataclass(frozen=True)
class Chosen:
    """The plan, and the statistics of both passes for the corrections that take them; what a search looked at."""

    plan: Plan
    statistics: Statistics | None
    affine: Statistics | None
    tournament: Result | None = None
    found: Found | None = None


def tokens(parent: Model, anatomy: Anatomy, wish: Wish, given: Mapping[str, Any]) -> Tokens | None:
    """Those that --vocab asks for, or that the plan keeps; None where all stay. given: the command's arguments."""
    from graphclone.vocabulary import choose_tokens, planned_tokens

    file = Path(given["tokenizer"]) if given["tokenizer"] else None
    if given["vocab"]:
        read: dict[str, Any] = {"tokenizer": file, "column": given["column"], "folder": given.get("side_files")}
        return choose_tokens(parent, anatomy, given["vocab"], **read)
    return planned_tokens(parent, anatomy, pipeline.read_plan(wish.plan), tokenizer=file) if wish.plan else None


def choose(parent: Model, anatomy: Anatomy, wish: Wish, tokens: Tokens | None) -> Chosen:
    """The plan that the wish comes to. A shape out of reach is said before anything is measured."""
    if wish.tournament is not None:
        from graphclone.cli import tournaments

        return tournaments.choose(parent, anatomy, wish, tokens)
    held = pipeline.read_statistics(wish.stats) if wish.stats else None
    judged: list[Batch] = []
    judges = wish.judges
    made = pipeline.read_plan(wish.plan) if wish.plan else None
    if made is None and (wish.budget or tokens is None or not wish.target.empty):
        pipeline.refuse_unreachable(anatomy, wish.target.whole, **wish.how())
    calibration = with_moments(wish, made.method if made else None)
    if calibration:
        held, judged = _measure(parent, anatomy, wish, calibration)
    if wish.depth == GREEDY and made is None:
        wish = _greedy(parent, anatomy, wish, held, judged)
    found = within(parent, anatomy, wish, held, judged, tokens) if wish.budget else None
    made = found.plan if found else made
    if made is None:
        kept = tokens.kept if tokens else None
        made = pipeline.plan(anatomy, held, wish.target, **wish.how(), weights=parent.constants(), tokens=kept)
    affine = _measured_kept(parent, anatomy, made, calibration, judges=judges) if calibration else None
    return Chosen(made, held, affine, found=found)


def _measure(
    parent: Model, anatomy: Anatomy, wish: Wish, calibration: request.Calibration
) -> tuple[Statistics, list[Batch]]:
    """Statistics, and the batches set apart where something is to be judged on data that was not measured."""
    source = request.open_data(parent, calibration)
    show.data("measuring", source)
    others = measured(source) if wish.judges else source
    with show.progress("measuring") as tick:
        held = request.calibrate(parent, anatomy, calibration, progress=tick, source=others)
    return held, judging(source) if wish.judges else []


def _greedy(parent: Model, anatomy: Anatomy, wish: Wish, held: Statistics | None, judged: list[Batch]) -> Wish:
    """The wish with the blocks named that greedy depth keeps."""
    assert held is not None  # wished() has seen to that
    assert wish.target.layers is not None
    kept = pipeline.greedy_depth(parent, held, judged, wish.target.layers, anatomy=anatomy, say=show.say)
    target = replace(wish.target, layers=None, keep_blocks=kept)
    return replace(wish, target=target, depth="paper")


def within(
    parent: Model, anatomy: Anatomy, wish: Wish, held: Statistics | None, judged: list[Batch], tokens: Tokens | None
) -> Found:
    """The best shape within the budget, and all that were looked at."""
    assert wish.budget is not None
    kept = tokens.kept if tokens else None
    found = pipeline.search(
        parent,
        held,
        wish.budget,
        anatomy=anatomy,
        held_out=judged,
        tokens=kept,
        clock=wish.clock,
        say=show.say,
        **wish.how(),
    )
    show.finalists(found)
    return found


def searched(chosen: Chosen) -> dict[str, Any]:
    """For JSON: the shapes that a budget was tried on, the chosen one first, and the starts of a tournament."""
    held = {"candidates": [one.as_dict() for one in chosen.found.finalists]} if chosen.found else {}
    return held | ({"tournament": chosen.tournament.as_dict()} if chosen.tournament else {})


def with_moments(wish: Wish, method: str | None) -> request.Calibration | None:
    """What is measured on; with second moments where the wish, or the plan made before by ``method``, takes them."""
    if wish.calibration is None:
        return None
    from graphclone.best import takes_moments

    asked = takes_moments(wish.method, wish.target, budget=wish.budget is not None)
    wanted = "least-squares" in method.split("+") if method else asked
    return replace(wish.calibration, moments=wanted)


def _measured_kept(
    model: Model, anatomy: Anatomy, plan: Plan, calibration: request.Calibration, *, judges: bool
) -> Statistics | None:
    """The second pass over what was measured, where the plan's method has use for it."""
    if not pipeline.takes_second_pass(anatomy, plan):
        return None
    source = request.open_data(model, calibration)
    with show.progress("measuring what is kept") as tick:
        return pipeline.measure_kept(
            model,
            plan,
            measured(source) if judges else source,
            anatomy=anatomy,
            provider=calibration.provider,
            threads=calibration.threads,
            progress=tick,
        )


@dataclass(frozen=True)
class Files:
    """The parent's file, the clone's, and where the parent's side files lie, if they are asked for.

    root: of the clone's folder, where a folder is made.
    """

    model: Path
    out: Path
    folder: Path | None
    asked: bool
    root: Path | None = None

    @classmethod
    def of(cls, model: Path, out: Path, folder: Path | None, *, asked: bool) -> Files:
        """Of a file, or of a folder that becomes one; what can be said before anything is done, is.

        Raises InvalidTarget, BadData, BadModel.
        """
        from graphclone import folders, side_files

        if str(out) == "-":
            raise typer.BadParameter("OUT -: a clone is examined as a file: name one (./- for a file of that name)")
        file = folders.model_in(model) if model.is_dir() else model
        if model.is_dir() and out.suffix != ".onnx":
            outputs.refuse_nowhere(out)
            outputs.refuse_full(out)
            side_files.refuse(file, out / file.name, folder or model)
            return cls(file, out / file.relative_to(model), folder or model, asked=True, root=out)
        outputs.refuse_unwritable(out)
        if asked or folder:
            side_files.refuse(file, out, folder)
        return cls(file, out, folder, asked=asked or folder is not None)

    @contextmanager
    def staged(self) -> Iterator[Files]:
        """These, where they are to be written; a folder gets its name when the block ends well."""
        if self.root is None:
            yield self
            return
        with outputs.staged_folder(self.root) as draft:
            out = draft / self.out.relative_to(self.root)
            out.parent.mkdir(exist_ok=True)
            yield replace(self, out=out, root=draft)

    def write(self, tokens: Tokens | None, parent: Anatomy, clone: Anatomy, plan: Plan) -> Beside:
        """The files that belong to the clone."""
        from graphclone import side_files, vocabulary

        written = vocabulary.write(tokens, self.out) if tokens else []
        made = side_files.Written()
        if self.asked:
            tokenizer = tokens.tokenizer if tokens else None
            made = side_files.write(
                self.model, self.out, parent, clone, plan, given=self.folder, to=self.root, tokenizer=tokenizer
            )
        names = [str(path.relative_to(self.root) if self.root else path) for path in (*written, *made.files)]
        return Beside(names, made.warnings, made.left if self.root else [], tokens)


@dataclass(frozen=True)
class Beside:
    """What was written beside the clone; ``warnings``: what in it is not up to date; ``left``: what the clone's folder
    does not have."""

    files: list[str]
    warnings: list[str]
    left: list[str]
    tokens: Tokens | None

    def as_dict(self) -> dict[str, list[str]]:
        """For JSON."""
        return {"beside": self.files, "not_updated": self.warnings, "left": self.left}

    def print(self) -> None:
        """What `clone` shows of it."""
        if self.tokens:
            kept = f"{len(self.tokens.kept):,} of {self.tokens.size:,} tokens stay"
            print(f"\nvocabulary: {kept}, {self.tokens.used:,} of them in {self.tokens.source}")
        if self.files:
            print(f"\nbeside it: {', '.join(self.files)}")
        if self.left:
            print(f"\nleft behind, as the parent's: {', '.join(self.left)}")
        for line in self.warnings:
            show.say(f"graphclone: warning: {line}")


def made(parent: Model, anatomy: Anatomy, chosen: Chosen, method: str) -> Model:
    """The clone, after a warning where a correction had too little to go by, or (of those that ``method`` names)
    nothing to do."""
    from graphclone.best import unscalable

    weight = unscalable(anatomy, chosen.plan.keep)
    if weight is not None and BEST in method.split("+") and chosen.plan.method == "none":
        show.say(f"graphclone: warning: weights are not scaled: {weight} holds integers that nothing multiplies")
    found = pipeline.clone(parent, chosen.plan, chosen.statistics, anatomy=anatomy, affine=chosen.affine)
    describe.warn_of_corrections(found.metadata, method)
    return found


def print_result(before: tuple[str, Anatomy], after: tuple[str, Anatomy], beside: Beside, verified: str) -> None:
    """What `clone` shows in the end."""
    describe.print_comparison(*before, *after)
    beside.print()
    print(f"\nverified: {verified}")
