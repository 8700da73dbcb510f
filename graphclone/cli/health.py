"""doctor: what is here."""

from __future__ import annotations

import typer

from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import FAILED, app

MARKS = {True: "[green]ok[/]", False: "[bold red]broken[/]", None: "-"}


@app.command(epilog="Examples:\n\n  graphclone doctor\n\n  graphclone doctor --json | jq .runs")
def doctor(json: o.Json = False) -> None:
    """What is installed, what would run where, and the command that installs what is missing."""
    from graphclone import doctor as room

    show.say("looking at what is installed: a few seconds")
    found = room.examine()
    if json:
        show.as_json(found.as_dict())
    else:
        show.table(("what", "", "where"), [(f.what, MARKS[f.well], f.found) for f in found.runs], "What runs where")
        print()
        rows = [(f.what, MARKS[f.well] if f.well is not None else "missing", f.found) for f in found.features]
        show.table(("what", "", "needs"), rows, "What works")
        print()
        show.table(("package", "version"), list(found.versions.items()), "Versions")
        for finding in (*found.runs, *found.features):
            if finding.fix:
                print(f"\n{finding.what}: {finding.found}\n  {finding.fix}")
    if not found.well:
        raise typer.Exit(FAILED)
