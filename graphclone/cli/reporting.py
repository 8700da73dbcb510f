"""report: a run, or a parent and its clone, as one page for a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphclone import outputs
from graphclone.cli import idle, show, typed
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.report.facts import Facts

EXAMPLES = (
    "Examples:\n\n  graphclone report runs/smollm2 -o report.html"
    "\n\n  graphclone report smollm2.onnx small.onnx --stats stats.safetensors -o report.html"
    "\n\n  graphclone report smollm2.onnx small.onnx --trained trained.onnx --training clone=trained.json"
    " --training twin=twin.json --data held-out.txt --tokenizer smollm2.tokenizer.json"
)
BOTH = 2  # a parent and its clone


@app.command(epilog=EXAMPLES)
def report(
    subject: Annotated[
        list[Path],
        typer.Argument(metavar="RUN | PARENT CLONE", help="What `run` wrote, or two models.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the page.")] = Path("report.html"),
    stats: o.Stats = None,
    trained: Annotated[
        Path | None, typer.Option("--trained", help="The clone after its training.", show_default=False)
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--training",
            metavar="[LABEL=]PATH",
            help="Curves, an arm each: what `train --json` printed, a folder of `train --logs`, or of `demo`.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where losses are compared, as for `measure`.", show_default=False)
    ] = None,
    tokenizer: o.Tokenizer = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    runs: Annotated[int, typer.Option("--runs", min=0, help="Of each model, for latency; 0: none.")] = 15,
    json: o.Json = False,
) -> None:
    """Draw a run, or a parent and its clone, as one page that needs no network."""
    from graphclone.report.runs import tell_run
    from graphclone.report.story import Given, tell

    curves = (arm.rpartition("=")[2] for arm in training or ())
    outputs.refuse_same_file(output, *subject, stats, trained, data, tokenizer, *curves)
    outputs.refuse_unwritable(output)
    asked = None if data is None else request.Calibration(data, tokenizer, length, batch_size, limit)
    if len(subject) == 1:
        if not subject[0].is_dir():
            raise typer.BadParameter(
                f"{subject[0]}: one path is the folder of a `graphclone run`; else PARENT and CLONE"
            )
        typed.refuse_all_but(idle.RUN, "subject", "output", "json", "quiet")
        return _written(tell_run(subject[0]), output, json=json)
    if len(subject) > BOTH:
        raise typer.BadParameter(f"PARENT and CLONE are two files, {len(subject)} were given")
    idle.refuse_of_data(data)
    parent, clone = subject
    options = {"--stats": stats, "--trained": trained, "--data": data, "--tokenizer": tokenizer}
    arms = tuple(training or ())
    command = _command("report", parent, clone, options=options, arms=arms)
    given = Given(parent, clone, stats, trained, arms, asked, runs, command)
    _written(tell(given, show.say), output, json=json)


def drawn(model: Path, output: Path, stats: Path | None, *, json: bool) -> None:
    """A parent alone, for `inspect --html`."""
    from graphclone.report.story import Given, tell

    outputs.refuse_same_file(output, model, stats)
    outputs.refuse_unwritable(output)
    given = Given(model, stats=stats, command=_command("inspect", model, options={"--html": output, "--stats": stats}))
    _written(tell(given), output, json=json)


def _command(name: str, *files: Path, options: Mapping[str, object], arms: Sequence[str] = ()) -> tuple[str, ...]:
    """What was typed, as far as it decides what the page says."""
    given = [word for flag, value in options.items() if value is not None for word in (flag, str(value))]
    return ("graphclone", name, *map(str, files), *given, *(word for arm in arms for word in ("--training", arm)))


def _written(facts: Facts, output: Path, *, json: bool) -> None:
    from graphclone.report.page import write

    size = write(facts, output)
    if json:
        return show.as_json({"output": str(output), "bytes": size, "clones": [clone.name for clone in facts.clones]})
    print(f"{output}: {size:,} bytes, {len(facts.maps)} maps, clones: {len(facts.clones)}")
