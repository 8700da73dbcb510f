"""A parent and its clones, told without a recipe: everything is read from the files that were given."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphclone.anatomy import vocabulary
from graphclone.errors import BadData
from graphclone.plan import Plan
from graphclone.report.curves import curves
from graphclone.report.facts import Facts, Sheet, Timing
from graphclone.report.subject import Subject, clone_facts, clone_plan, parent_facts
from graphclone.statistics import request
from graphclone.statistics.packing import load_tokenizer
from graphclone.statistics.store import Statistics
from graphclone.surgery.operate import clone as cut
from graphclone.timing.bench import RUNS, bench
from graphclone.verification import verify

Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """stats: what `measure` wrote. training: ``LABEL=PATH`` or ``PATH`` of curves. data: where losses are measured.
    trained: the clone after training, where it is another file. runs: of each model, for latency; 0 for none."""

    parent: Path
    clone: Path | None = None
    stats: Path | None = None
    trained: Path | None = None
    training: tuple[str, ...] = ()
    data: request.Calibration | None = None
    runs: int = RUNS
    command: tuple[str, ...] = field(default=())


def tell(given: Given, say: Say = lambda line: None) -> Facts:
    """The facts of one parent, and of one clone where there is one. Raises what reading, verifying and timing raise."""
    parent = Subject.open(given.parent)
    stats = None if given.stats is None else Statistics.read(given.stats)
    if given.clone is None:
        facts, _ = parent_facts(parent, stats, {})
        return replace(facts, commands=(shlex.join(given.command),) if given.command else ())
    clone = Subject.open(given.clone)
    plan, _ = clone_plan(clone.model)
    name = given.clone.name
    facts, found = parent_facts(parent, stats, {name: plan})
    say(f"report: verifying {given.clone}")
    told = clone_facts(parent, clone, name, plan, found, verify(parent.model, clone.model))
    subjects = [parent, clone]
    told = replace(told, curves=tuple(curve for one in given.training for curve in curves(one)))
    if given.trained is not None:
        trained = Subject.open(given.trained)
        subjects.append(trained)
        told = replace(told, sheets=(*told.sheets, trained.sheet(given.trained.name, "trained")))
    sheets = [facts.parent, *told.sheets]
    timed = ""
    if given.runs:
        say("report: timing parent and clone")
        times = bench(given.parent, given.clone, runs=given.runs).as_dict()
        sheets[0], sheets[1] = timed_sheets(sheets[0], sheets[1], times)
        timed = timed_on(times["setting"])
    if given.data is not None:
        say(f"report: losses on {given.data.data}")
        sheets = _judged(sheets, subjects, plan, given.data, say)
    told = replace(told, sheets=tuple(sheets[1:]))
    return replace(facts, parent=sheets[0], clones=(told,), commands=_commands(given), timed_on=timed, title=name)


def timed_sheets(parent: Sheet, clone: Sheet, times: Mapping[str, Any]) -> tuple[Sheet, Sheet]:
    """Both with what ``graphclone.timing.bench`` found, in plain values."""
    ratios = [(r["median"], r["low"], r["high"]) for r in times["ratios"]]
    made = []
    for sheet, held, over in ((parent, times["parent"], [None] * len(ratios)), (clone, times["clone"], ratios)):
        timings = tuple(
            Timing(t["length"], t["latency"]["median"], t["latency"]["low"], t["latency"]["high"], ratio)
            for t, ratio in zip(held["timings"], over, strict=False)
        )
        made.append(replace(sheet, timings=timings, memory=held["memory"]))
    return made[0], made[1]


def timed_on(setting: Mapping[str, Any]) -> str:
    """Where and how a bench ran, in a line."""
    threads = "all threads" if setting["threads"] is None else f"{setting['threads']} threads"
    what = f"{setting['provider']} of ONNX Runtime {setting['runtime']}, {threads}"
    return f"{what}, batch {setting['batch']}, {setting['runs']} runs in turns; {setting['processor']}"


def _judged(
    sheets: Sequence[Sheet], subjects: Sequence[Subject], plan: Plan, data: request.Calibration, say: Say
) -> list[Sheet]:
    from graphclone.sizing.scoring import scores

    parent, *others = subjects
    judged, reader = parent.model, parent.model
    groups = {name for name, group in parent.anatomy.groups.items() if group.kind == vocabulary.KIND}
    if tokens := {name: kept for name, kept in plan.keep.items() if name in groups}:
        # an id is another token there: all read by the clone's tokenizer, and tell the next token from the same ones
        count = len(next(iter(tokens.values())))
        _refuse_more_tokens(data.tokenizer, count, others[0].path)
        judged = cut(judged, parent.anatomy, Plan(parent.anatomy.fingerprint, tokens, method="none"))
        reader = others[0].model
        say(f"report: over the {count:,} tokens that {others[0].path.name} has; the parent's others are left out")
    unit, found = scores(judged, [o.model for o in others], request.open_data(reader, data), data.mask)
    return [replace(sheet, loss=loss, unit=unit) for sheet, loss in zip(sheets, found, strict=True)]


def _refuse_more_tokens(tokenizer: str | None, count: int, clone: Path) -> None:
    if tokenizer is None or (size := load_tokenizer(Path(tokenizer)).get_vocab_size()) <= count:
        return
    raise BadData(
        f"{tokenizer}: {size:,} tokens, {clone.name} has {count:,}: give the clone's own tokenizer, which "
        f"`clone --vocab` writes beside it ({clone.with_suffix('.tokenizer.json').name})"
    )


def _commands(given: Given) -> tuple[str, ...]:
    """What makes the same clone from the same parent, and examines it."""
    parent, clone = shlex.quote(str(given.parent)), shlex.quote(str(given.clone))
    stats = "" if given.stats is None else f" --stats {shlex.quote(str(given.stats))}"
    lines = [f"graphclone clone {parent} {clone} --plan plan.json{stats}", f"graphclone verify {parent} {clone}"]
    return (*lines, *((shlex.join(given.command),) if given.command else ()))
