"""What the commands print: tables on standard output, progress on standard error, one line of JSON where asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from graphclone import strict_json

if TYPE_CHECKING:
    from rich.console import Console

    from graphclone.sizing.searching import Found
    from graphclone.statistics.calibration import Source
    from graphclone.verification import Report

PIPE_WIDTH = 140  # columns where there is no terminal to ask
PLAIN_INTERVAL = 5.0  # seconds between progress lines in a pipe

MARKS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "not applicable": "[yellow]not applicable[/]"}


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_output: ContextVar[TextIO | None] = ContextVar("output", default=None)


def hush(asked: bool) -> bool:
    """Whether the command that runs says nothing on standard error."""
    _quiet.set(asked)
    return asked


def console(*, errors: bool = False) -> Console:
    """Standard output, or error: coloured on a terminal (NO_COLOR is honoured), plain in a pipe."""
    from rich.console import Console

    terminal = (sys.stderr if errors else sys.stdout).isatty()
    return Console(highlight=False, stderr=errors, width=None if terminal else PIPE_WIDTH)


def say(message: str) -> None:
    """A line about what is going on, on standard error; none with --quiet."""
    if _quiet.get():
        return
    print(message, file=sys.stderr, flush=True)


def data(what: str, source: Source) -> None:
    """What is read, and what is filled in, on standard error."""
    for line in source.lines():
        say(f"{what}: {line}")


def as_json(held: Mapping[str, Any]) -> None:
    """One line on standard output."""
    line(strict_json.dumps(held))


def line(text: str) -> None:
    """What was asked for, on standard output, whatever else prints."""
    print(text, file=_output.get() or sys.stdout)


@contextmanager
def alone_on_output(asked: bool) -> Iterator[None]:
    """With --json: what others print (a function of the user's, a library) goes to standard error."""
    before = _output.set(sys.stdout if asked else None)
    try:
        with redirect_stdout(sys.stderr) if asked else nullcontext():
            yield
    finally:
        _output.reset(before)


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, *, errors: bool = False
) -> None:
    """Print a table; all columns but the first are set to the right where every cell is a number. ``errors``: on
    standard error."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    cells = [[_cell(cell) for cell in row] for row in rows]
    for i, name in enumerate(head):
        numbers = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        made.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        made.add_row(*row)
    console(errors=errors).print(made)


def _cell(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def report(found: Report, title: str = "Verification") -> None:
    """Checks as a table."""
    rows = [(c.name, c.value, c.tolerance, MARKS[c.verdict], c.detail) for c in found.checks]
    table(("check", "value", "tolerance", "verdict", "detail"), rows, title)


def finalists(found: Found) -> None:
    """The shapes that a budget was tried on, the chosen one first, on standard error; none with --quiet."""
    if _quiet.get():
        return
    parent = "" if found.parent_score is None else f" (the parent's: {found.parent_score:.3g})"
    head = ["hidden", "heads", "ffn", "layers", "parameters", "predicted loss"]
    rows: list[list[object]] = []
    for one in found.finalists:
        heads = f"{one.heads}/{one.shape.kv_heads}"
        row = [one.shape.hidden, heads, one.shape.ffn, one.shape.layers, one.parameters, one.predicted]
        rows.append(row)
    more: dict[str, list[float | None]] = {"bytes": [f.size for f in found.finalists]}
    more[found.unit] = [f.score for f in found.finalists]
    more["ms"] = [None if f.latency is None else f.latency * 1e3 for f in found.finalists]
    for name, values in more.items():
        if any(value is not None for value in values):
            head.append(name)
            rows = [[*row, value] for row, value in zip(rows, values, strict=True)]
    rows = [[*row, "" if k else "chosen"] for k, row in enumerate(rows)]
    table([*head, ""], rows, f"Shapes within the budget, best {found.unit} first{parent}", errors=True)


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, a line every few seconds in a pipe; call it with (done, total or None)."""
    if quiet or _quiet.get():
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def shown(done: int, total: int | None) -> None:
            bar.tasks[0].total = total  # to update() None means as before
            bar.update(task, completed=done)

        yield shown


class _PlainProgress:
    """At most one line each PLAIN_INTERVAL, and one at the end."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.said = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - self.said < PLAIN_INTERVAL:
            return
        self.said = now
        say(f"{self.what}: {done}" + (f" of {total}" if total is not None else ""))
