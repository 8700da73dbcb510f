"""run: a recipe."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import app

if TYPE_CHECKING:
    from graphclone.workflow.reading import Recipe
    from graphclone.workflow.record import Record, Row

EXAMPLES = (
    "Examples:"
    "\n\n  graphclone run recipe.yaml"
    "\n\n  graphclone run recipe.yaml -o runs/today --set targets.small.hidden=192 --set training.steps=500"
    "\n\n  GRAPHCLONE__DATA__LIMIT=4 graphclone run recipe.yaml --json"
    "\n\n  cat recipe.yaml | graphclone run - -o run"
    "\n\n  graphclone run --schema > recipe.schema.json"
)
SHOWN = ("parameters", "bytes")


@app.command(epilog=EXAMPLES)
def run(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A YAML file; -: standard input.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The run's folder (default: RECIPE without .yaml).", show_default=False),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: --set data.limit=4.", show_default=False),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Do it again where the folder is of another parent.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, its parent and data, and show all settings.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes and exit.")] = False,
    json: o.Json = False,
) -> None:
    """Do a recipe: measure once, then plan, clone, verify, train and export every target. What is done is reused."""
    if schema:
        return show.line(_schema())
    if recipe is None:
        raise typer.BadParameter("run takes a RECIPE (or --schema)")
    from graphclone.workflow import reading

    read = reading.read(recipe, change or ())
    if check:
        return _print_checked(read, json=json)
    from graphclone.workflow import running

    started = time.monotonic()
    watch = running.Watch(show.say, show.progress)
    folder = output or (Path("run") if recipe == "-" else Path(recipe).with_suffix(""))
    try:
        record = running.run(read, folder, watch, command=_command(), refresh=refresh)
    except KeyboardInterrupt:
        show.say(f"{folder}: what is done is kept, the same command goes on")
        raise
    if json:
        show.as_json({"output": str(folder), **_told(record)})
    else:
        _print(record, folder, time.monotonic() - started)
    running.raise_if_failed(record)


def _print_checked(read: Recipe, *, json: bool) -> None:
    """What the recipe says, with the defaults of what it does not."""
    import yaml

    from graphclone.workflow import checking

    checking.check(read)
    settings = read.held.model_dump(mode="json", exclude_none=True)
    if json:
        return show.as_json(read.held.model_dump(mode="json", exclude_defaults=True) | {"settings": settings})
    show.line(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip())


def _schema() -> str:
    from json import dumps

    from graphclone.workflow.schema import json_schema

    return dumps(json_schema(), indent=1)


def _command() -> str:
    """What was typed, as a shell takes it."""
    return shlex.join(["graphclone", *sys.argv[1:]])


def _told(record: Record) -> dict[str, Any]:
    steps = [
        {
            "step": row.step,
            "target": row.target,
            "state": str(row.state),
            "reused": row.reused,
            "seconds": row.seconds,
            "outputs": dict(row.outputs),
            "error": row.error,
        }
        for row in record.rows
    ]
    return {"parent": dict(record.parent), "targets": list(record.targets), "steps": steps}


def _print(record: Record, folder: Path, seconds: float) -> None:
    rows = [_line(record, name) for name in record.targets]
    show.table(("target", "parameters", "bytes", "verified", "held-out loss", "latency", "state"), rows)
    reused = sum(row.reused for row in record.rows)
    what = "nothing to do" if reused == len(record.rows) else f"{len(record.rows) - reused} steps"
    print(f"\n{folder}: {what}, {reused} of {len(record.rows)} steps reused, {seconds:.1f} s")


def _line(record: Record, name: str) -> tuple[object, ...]:
    steps: dict[str, Row] = {row.step: row for row in record.rows if row.target == name}
    figures = {step: row.figures for step, row in steps.items() if row.state == "done"}
    clone = figures.get("clone", {}).get("clone", {})
    checks = figures.get("verify", {}).get("checks", ())
    verified = f"{sum(check['verdict'] == 'passed' for check in checks)} checks" if checks else None
    best = figures.get("train", {}).get("best")
    ratio = figures.get("bench", {}).get("ratio")
    failed = next((f"failed: {row.step}" for row in steps.values() if row.state == "failed"), None)
    state = failed or ("done" if all(row.state == "done" for row in steps.values()) else "skipped")
    latency = None if ratio is None else f"{ratio:.0%} of the parent's"
    return (name, *(clone.get(size) for size in SHOWN), verified, best and best[1], latency, state)
