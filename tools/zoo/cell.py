"""One cell of the matrix: inspect, compare with the configuration, cut in every way, examine.

``python -m tools.zoo.cell FILE [--quick]``: FILE.json beside it says what to expect; the verdicts are printed.
--quick leaves out the cuts of one kind alone.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import graphclone.graph as graphs
from graphclone import Target
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import GraphCloneError, one_line
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import plan
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tools.zoo.columns import COLUMNS
from tools.zoo.expectation import mismatches
from tools.zoo.goldens import printed
from tools.zoo.imported import FOLDED, NATIVE, SCALED, gradients, imported
from tools.zoo.oracles import broken, permuted, stepping
from tools.zoo.row import Expected
from tools.zoo.rows import ROWS
from tools.zoo.twin import NoTwin, compare, small

GREEN, REFUSED, WRONG = "green", "refused", "WRONG"
BROKEN, UNEXPORTED = "broken", "unexported"  # the export does not run, or is not there: nothing about graphclone
IN_PYTORCH = ("in PyTorch", "gradients in PyTorch")
PARTS = {"an attention": "drop_attention", "a feed-forward": "drop_feed_forward"}  # the plan's fields


@dataclass(frozen=True)
class Verdict:
    """One question put to a cell. ``answer`` is green, refused (graphclone said why), WRONG (anything else)."""

    question: str
    answer: str
    detail: str = ""


@dataclass(frozen=True)
class Exam:
    """All verdicts on a cell; ``anatomy`` as `inspect` prints it, for the goldens."""

    verdicts: tuple[Verdict, ...]
    anatomy: str = ""


@dataclass(frozen=True)
class Cell:
    """A file of the zoo and what is known about it."""

    file: Path
    row: str
    column: str
    stacks: tuple[Expected, ...]

    @classmethod
    def read(cls, file: Path) -> Cell:
        """From the JSON beside the file."""
        held = json.loads(file.with_suffix(".json").read_text())
        return cls(file, held["row"], held["column"], tuple(Expected(**s) for s in held["stacks"]))


def targets(cell: Cell) -> dict[str, dict[str, int]]:
    """Every width and the depth alone, then all together; sizes of a configuration that exists."""
    first, ratio = cell.stacks[0], ROWS[cell.row].ffn_ratio
    heads, kv_heads = first.heads // 2, max(1, first.kv_heads // 2)
    coupled = first.heads * first.head_dim == first.hidden
    hidden = heads * first.head_dim if coupled else first.hidden * 5 // 7
    alone = {
        "hidden": {"hidden": hidden},
        "heads": {"heads": heads, "kv_heads": kv_heads},
        "ffn": {"ffn": hidden * ratio if ratio else first.ffn * 3 // 5},
        "layers": {"layers": first.layers - 1},
    }
    together: dict[str, int] = {}
    for sizes in alone.values():
        together |= sizes
    return {**alone, "all": together}


def after(stack: Expected, first: Expected, target: dict[str, int]) -> Expected:
    """A stack as the clone has to have it. Shares are asked for where stacks differ."""
    changed = {name: getattr(stack, name) * size // getattr(first, name) for name, size in target.items()}
    return replace(stack, **{n: max(1, s) for n, s in changed.items()})


@dataclass(frozen=True)
class Subject:
    """A parent under examination; clones are made once."""

    cell: Cell
    model: Model
    anatomy: Anatomy
    clones: dict[str, Model] = field(default_factory=dict)

    def cut(self, target: dict[str, int]) -> Model:
        """Clone to a target and examine the clone. Raises GraphCloneError as graphclone does, AssertionError for a
        clone that is not what was asked."""
        key = json.dumps(target)
        if key not in self.clones:
            self.clones[key] = self._cut(target)
        return self.clones[key]

    def _cut(self, target: dict[str, int]) -> Model:
        first = self.cell.stacks[0]
        several = len(self.cell.stacks) > 1
        asked: dict[str, Any] = {n: _share(size, getattr(first, n)) if several else size for n, size in target.items()}
        if first.heads == first.kv_heads:
            asked.pop("kv_heads", None)  # as a user would say it
        made = plan(self.anatomy, None, Target(**asked), importance="first", method="none")
        clone_ = clone(self.model, self.anatomy, made)
        assert_verified(self.model, clone_, made)
        wrong = mismatches(inspect(clone_), tuple(after(s, first, target) for s in self.cell.stacks))
        assert not wrong, f"the clone's own anatomy: {wrong}"
        return clone_


def assert_verified(parent: Model, clone_: Model, plan_: Plan) -> None:
    """`graphclone verify` passes, or AssertionError with the checks that fail."""
    report = verify(parent, clone_, plan_)
    failed = "; ".join(f"{c.name}: {c.detail} ({c.value})" for c in report.failures)
    assert report.passed, f"verify: {failed or 'no check was made'}"


def _share(size: int, whole: int) -> str:
    """A percentage that rounds down to ``size`` of ``whole``."""
    return f"{-(-size * 10000 // whole) / 100}%"


def judge(question: str, ask: Callable[[], str | None]) -> Verdict:
    """Ask, and sort what comes back: an answer is detail, a graphclone error is a refusal, all else is wrong."""
    try:
        return Verdict(question, GREEN, ask() or "")
    except GraphCloneError as reason:
        return Verdict(question, REFUSED, f"{type(reason).__name__}: {one_line(reason)}")
    except AssertionError as reason:
        return Verdict(question, WRONG, one_line(reason))
    except Exception as reason:  # noqa: BLE001  whatever it is, it is no refusal
        where = traceback.extract_tb(reason.__traceback__)[-1]
        detail = f"{type(reason).__name__} at {Path(where.filename).name}:{where.lineno}: {one_line(reason)}"
        return Verdict(question, WRONG, detail[:600])


def examine(cell: Cell, quick: bool = False, *, native: bool = True) -> Exam:
    """Every question, in order; without an anatomy there are no further ones. ``native``: with its twin."""
    model = graphs.load(cell.file)
    problem = broken(model)
    if problem:
        return Exam((Verdict("parent", BROKEN, problem),))
    held: list[Anatomy] = []

    def anatomy() -> str:
        held.append(inspect(model))
        wrong = mismatches(held[0], cell.stacks)
        assert not wrong, wrong
        return ""

    verdicts = [judge("inspect", anatomy)]
    if not held:
        return Exam(tuple(verdicts))
    subject = Subject(cell, model, held[0])
    verdicts.append(judge("permutation", lambda: permuted(model, subject.anatomy)))
    wanted = targets(cell)
    asked = ["all"] if quick else list(wanted)
    verdicts += [judge(name, partial(_valid, subject, wanted[name])) for name in asked]
    if not quick:
        verdicts += [judge(f"without {part}", partial(without, subject, field)) for part, field in PARTS.items()]
    if "cache" in cell.column or cell.column == "genai":
        verdicts.append(judge("stepping", lambda: stepping(model)))
        verdicts.append(judge("stepping of the clone", lambda: stepping(subject.cut(wanted["all"]))))
    if native:
        verdicts.append(judge("native twin", lambda: twin(subject)))
    verdicts += in_pytorch(cell, model, native=native)
    return Exam(tuple(verdicts), printed(cell.row, model, subject.anatomy))


def in_pytorch(cell: Cell, model: Model, *, native: bool = True) -> list[Verdict]:
    """What is asked of the module that ``to_torch`` makes; ``native``: of its gradients, too."""
    row = ROWS[cell.row]
    asked: list[Callable[[], str | None]] = [lambda: imported(model)]
    folded = cell.row in FOLDED and ("dynamo" in cell.column or cell.column == "opset23")
    folded = folded or (cell.row, cell.column) in SCALED
    if native and cell.column in NATIVE and row.only is None and not folded:
        asked.append(lambda: gradients(model, row, cell.column))
    return [judge(question, ask) for question, ask in zip(IN_PYTORCH, asked, strict=False)]


def _valid(subject: Subject, target: dict[str, int]) -> str:
    subject.cut(target)
    return ""


def without(subject: Subject, part: str) -> str:
    """A branch of the second block left out; a refusal is no verdict on the cell, its reason is told."""
    stack = subject.anatomy.stacks[0]
    dropped: dict[str, Any] = {part: {stack.name: (1,)}}
    made = Plan(subject.anatomy.fingerprint, {}, method="none", **dropped)
    try:
        clone_ = clone(subject.model, subject.anatomy, made)
    except GraphCloneError as reason:
        return f"refused: {one_line(reason)}"
    assert_verified(subject.model, clone_, made)
    return ""


def twin(subject: Subject) -> str:
    """The clone against the exporter's own small model; where there is none, why."""
    cell, target = subject.cell, dict(targets(subject.cell)["all"])
    if len(cell.stacks) > 1 or ROWS[cell.row].period > 1:
        del target["layers"]  # no configuration has the clone's depths, or its order of layers
    clone_ = subject.cut(target)
    try:
        made = small(cell.row, cell.column, target, cell.file.parent / "twins")
        return compare(clone_, made, COLUMNS[cell.column].rounding)
    except NoTwin as reason:
        return f"no twin: {reason}"


def overall(verdicts: Sequence[Verdict]) -> str:
    """WRONG where anything is, else refused, else green."""
    answers = {v.answer for v in verdicts}
    return next(a for a in (WRONG, REFUSED, BROKEN, UNEXPORTED, GREEN) if a in answers)


def main(arguments: list[str]) -> None:
    """Print the verdicts on one file."""
    for verdict in examine(Cell.read(Path(arguments[0])), "--quick" in arguments).verdicts:
        print(f"{verdict.answer:9}{verdict.question} {verdict.detail}")


__all__ = ["Cell", "Exam", "Subject", "Verdict", "examine", "overall", "targets"]

if __name__ == "__main__":
    main(sys.argv[1:])
