"""A run folder, told: everything is read from its record, and from the files that this names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphclone.errors import BadData, BadModel
from graphclone.plan import Plan
from graphclone.report.curves import curve
from graphclone.report.facts import CloneFacts, Curve, Facts, Sheet, Verdict
from graphclone.report.story import timed_on, timed_sheets
from graphclone.report.subject import Subject, clone_facts, parent_facts, verdicts
from graphclone.statistics.store import Statistics
from graphclone.workflow.record import NAME, Record, Row, State


def tell_run(folder: Path) -> Facts:
    """The facts of a run, whole or broken off. Raises BadData for a folder that holds none."""
    record = Record.read(folder)
    if record is None:
        raise BadData(
            f"{folder}: no {NAME} in it: the folder of a `graphclone run`, or PARENT and CLONE, make a report"
        )
    path = Path(record.parent["path"])
    if not path.is_file():
        raise BadModel(f"{path}: the parent of the run in {folder} is no longer there: put it back, or run again")
    parent = Subject.open(path)
    stats = _statistics(record, folder)
    plans = {name: plan for name in record.targets if (plan := _plan(record, folder, name)) is not None}
    facts, found = parent_facts(parent, stats, plans)
    clones, sheet, timed = [], facts.parent, ""
    for name in record.targets:
        one = _clone(record, folder, name, parent, plans.get(name), found)
        bench = _figures(record.find("bench", name))
        if bench and one.sheets:
            sheet, clone = timed_sheets(sheet, one.sheets[0], bench)
            one, timed = replace(one, sheets=(clone, *one.sheets[1:])), timed_on(bench["setting"])
        clones.append(one)
    return replace(
        facts,
        title=Path(record.recipe).stem if record.recipe != "-" else folder.resolve().name,
        parent=sheet,
        clones=tuple(clones),
        commands=(record.command,),
        settings=json.dumps(record.settings, indent=2, sort_keys=True),
        timed_on=timed,
    )


def _clone(
    record: Record, folder: Path, name: str, parent: Subject, plan: Plan | None, found: Mapping[str, Any]
) -> CloneFacts:
    """One target: what was done of it, and why it went no further."""
    rows = [row for row in record.rows if row.target == name]
    problem = next((f"{row.step}: {row.error}" for row in rows if row.state is State.FAILED), "")
    file = _output(record.find("clone", name), "clone", folder)
    if file is None or not file.is_file() or plan is None:
        return CloneFacts(name, (), problem=problem or "no clone was written")
    told = clone_facts(parent, Subject.open(file), name, plan, found, None)
    training = record.find("train", name)
    trained = _output(training, "trained", folder)
    if trained is not None and trained.is_file():
        told = replace(told, sheets=(*told.sheets, _trained(trained, name, training)))
    told = replace(told, sheets=(_with_loss(told.sheets[0], training, first=True), *told.sheets[1:]))
    return replace(
        told,
        problem=problem,
        checks=verdicts(_figures(record.find("verify", name)).get("checks", [])),
        curves=_curves(record, name),
        gates=tuple(
            Verdict(g["name"], g["verdict"], g["detail"], g.get("value"), g.get("limit"))
            for g in _figures(record.find("check", name)).get("gates", [])
        ),
    )


def _trained(file: Path, name: str, row: Row | None) -> Sheet:
    return _with_loss(Subject.open(file).sheet(f"{name}, trained", "trained"), row, first=False)


def _with_loss(sheet: Sheet, row: Row | None, *, first: bool) -> Sheet:
    """The held-out loss before, or after: of the weights that were kept."""
    figures = _figures(row)
    pairs = figures.get("held_out") or []
    if not pairs:
        return sheet
    best = figures.get("best")
    return replace(sheet, loss=float(pairs[0][1] if first else best[1] if best else pairs[-1][1]))


def _curves(record: Record, name: str) -> tuple[Curve, ...]:
    """Of the clone, and of its twin that began at random."""
    arms = ((name, record.find("train", name)), (f"{name}, from random weights", record.find("twin", name)))
    return tuple(curve(label, figures) for label, row in arms if "losses" in (figures := _figures(row)))


def _statistics(record: Record, folder: Path) -> Statistics | None:
    file = _output(record.find("measure", None), "stats", folder)
    return Statistics.read(file) if file is not None and file.is_file() else None


def _plan(record: Record, folder: Path, name: str) -> Plan | None:
    file = _output(record.find("plan", name), "plan", folder)
    return Plan.read(file) if file is not None and file.is_file() else None


def _output(row: Row | None, role: str, folder: Path) -> Path | None:
    """What a step wrote in a role, where it was done."""
    if row is None or row.state is not State.DONE or role not in row.outputs:
        return None
    return folder / row.outputs[role]


def _figures(row: Row | None) -> Mapping[str, Any]:
    return {} if row is None or row.state is not State.DONE else row.figures
