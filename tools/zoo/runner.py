"""Cells in processes of their own, a few at a time: exported, examined, the verdict kept in FOLDER/results.

The processes are forks of one that has imported PyTorch and transformers already: that takes longer than most cells.
A cell that crashes or hangs has a verdict too. What is done already is not done again.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphclone import graph as graphs
from graphclone.errors import one_line
from tools.zoo import build, cell
from tools.zoo.code import Code
from tools.zoo.columns import Column
from tools.zoo.row import Row
from tools.zoo.rows import ROWS

LIMIT = 900  # seconds a cell may take


@dataclass(frozen=True)
class Work:
    """A cell to be judged, and by which version of the code."""

    row: Row
    column: Column
    folder: Path
    code: Code
    quick: bool = False
    pytorch: bool = False  # only what is asked of the module in PyTorch, beside what was found before

    @property
    def name(self) -> str:
        """ROW-COLUMN."""
        return f"{self.row.name}-{self.column.name}"

    @property
    def kept(self) -> Path:
        """Where the verdict is."""
        return self.folder / "results" / f"{self.name}.json"

    def verdict(self) -> dict[str, Any] | None:
        """What was found before, if anything."""
        return json.loads(self.kept.read_text()) if self.kept.exists() else None

    def stale(self, again: bool = False) -> bool:
        """Whether there is no verdict on this export, one of a quick examination, or one that is not green and made
        by other code; ``again``: any that was made by other code."""
        held, file = self.verdict(), build.file_of(self.row, self.column, self.folder)
        if self.pytorch and held is not None:
            asked = {q["question"]: q["answer"] for q in held["questions"] if q["question"] in cell.IN_PYTORCH}
            works = held["verdict"] not in (cell.BROKEN, cell.UNEXPORTED)
            return works and (again or set(asked.values()) != {cell.GREEN})
        if held is None or (file.exists() and self.kept.stat().st_mtime < file.stat().st_mtime):
            return True
        other = held.get("digest") != self.code.digest
        if again or held["verdict"] != cell.GREEN:
            return other
        return bool(held["quick"]) and not self.quick

    def add(self, verdicts: list[cell.Verdict]) -> None:
        """Put these in the place of the same questions of before."""
        held = self.verdict() or {}
        kept = [q for q in held["questions"] if q["question"] not in cell.IN_PYTORCH] + [vars(v) for v in verdicts]
        held |= {"questions": kept, "verdict": cell.overall([cell.Verdict(**q) for q in kept])}
        self._write(held)

    def keep(self, exam: cell.Exam, seconds: float) -> None:
        """Write the verdict down."""
        held = {
            "row": self.row.name,
            "column": self.column.name,
            "verdict": cell.overall(exam.verdicts),
            "quick": self.quick,
            "seconds": round(seconds, 1),
            "commit": self.code.commit,
            "digest": self.code.digest,
            "questions": [vars(v) for v in exam.verdicts],
            "anatomy": exam.anatomy,
        }
        self._write(held)

    def _write(self, held: dict[str, Any]) -> None:
        partial = self.kept.with_suffix(".part")
        partial.write_text(json.dumps(held, indent=1))
        os.replace(partial, self.kept)


def settle(work: Work) -> None:
    """Export where need be, examine, and keep the verdict."""
    started = time.monotonic()
    if work.pytorch and work.verdict() is not None:
        file = build.file_of(work.row, work.column, work.folder)
        work.add(cell.in_pytorch(cell.Cell.read(file), graphs.load(file)))
        return
    work.keep(_exam(work), time.monotonic() - started)


def _exam(work: Work) -> cell.Exam:
    if not build.present(work.row, work.column, work.folder):
        try:
            build.build(work.row, work.column, work.folder)
        except Exception as reason:  # noqa: BLE001  exporters raise anything; the verdict tells
            return cell.Exam((cell.Verdict("export", cell.UNEXPORTED, _root(reason)),))
    file = build.file_of(work.row, work.column, work.folder)
    return cell.examine(cell.Cell.read(file), work.quick)


def _root(reason: BaseException) -> str:
    """What an exporter died of, below what it wraps it in."""
    while reason.__cause__ is not None:
        reason = reason.__cause__
    return f"{type(reason).__name__}: {one_line(reason, 300)}"


def settle_all(todo: Iterable[Work], jobs: int, told: Callable[[dict[str, Any]], None]) -> None:
    """Judge cells, ``jobs`` at a time; ``told`` hears each verdict."""
    context = multiprocessing.get_context("fork")
    left, running = list(todo), dict[int, tuple[Any, Work, float]]()
    while left or running:
        while left and len(running) < jobs:
            work = left.pop(0)
            process = context.Process(target=_apart, args=(work,))
            process.start()
            running[process.sentinel] = (process, work, time.monotonic())
        ready = {int(s) for s in multiprocessing.connection.wait(list(running), timeout=1.0) if isinstance(s, int)}
        for sentinel, (process, work, started) in list(running.items()):
            seconds = time.monotonic() - started
            if sentinel in ready:
                process.join()
                crashed = f"exit {process.exitcode}: {_last_words(work)}" if process.exitcode else ""
            elif seconds > LIMIT:
                process.kill()
                process.join()
                crashed = f"no verdict within {LIMIT} s"
            else:
                continue
            del running[sentinel]
            if crashed:
                said = cell.Verdict("process" if not work.pytorch else cell.IN_PYTORCH[0], cell.WRONG, crashed)
                if work.pytorch:
                    work.add([said])
                else:
                    work.keep(cell.Exam((said,)), seconds)
            _log(work).unlink(missing_ok=True)
            told(work.verdict() or {})


def _log(work: Work) -> Path:
    return work.kept.with_suffix(".log")


def _last_words(work: Work) -> str:
    return " ".join(_log(work).read_text(errors="replace").split())[-400:]


def _apart(work: Work) -> None:
    """In the fork: what exporters print goes to a file of its own."""
    with _log(work).open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        settle(work)
        sys.stdout.flush()


def warm() -> None:
    """Import what every cell needs. No session and no export is made here: their threads would not survive a fork."""
    import onnxruntime
    import onnxscript
    import torch._dynamo
    import torch.export
    import torch.onnx
    import transformers

    torch.set_num_threads(1)
    for row in ROWS.values():
        if row.architecture:
            getattr(transformers, row.architecture)
    assert onnxruntime.__version__
    assert onnxscript.__version__


def line(verdict: dict[str, Any]) -> str:
    """A verdict on one line: what is not green, and why; equal reasons once."""
    reasons: dict[str, list[str]] = {}
    for question in verdict["questions"]:
        if question["answer"] != "green":
            reasons.setdefault(f"{question['answer']}: {question['detail']}", []).append(question["question"])
    shown = " | ".join(f"[{', '.join(names)}] {reason}" for reason, names in reasons.items())
    how = f"{'quick ' if verdict['quick'] else ''}{verdict['seconds']:.0f} s"
    return f"{verdict['verdict']:11}{verdict['row']}-{verdict['column']} ({how}) {shown}"
