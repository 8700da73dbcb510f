"""measure: run, merge, rehearse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import idle, show, typed
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.graph import Model
    from graphclone.statistics.calibration import Source
    from graphclone.statistics.checkpoint import Checkpoint
    from graphclone.statistics.rehearsal import Rehearsal
    from graphclone.statistics.store import Statistics


MERGING = ("files", "output", "merge", "json", "quiet")
ENGINES = ("here", "ray")
EXAMPLES = (
    "Examples:\n\n  graphclone measure smollm2.onnx --data python-docs --tokenizer tokenizer.json"
    " -o stats.safetensors\n\n  graphclone measure vit.onnx --data photos/ --dry-run"
    "\n\n  graphclone measure smollm2.onnx --data corpus.jsonl --shard 1/4 -o stats-1.safetensors"
    "\n\n  graphclone measure smollm2.onnx --data corpus.jsonl --shard 1/4 -o stats-1.safetensors --resume"
    "\n\n  graphclone measure smollm2.onnx --data corpus.jsonl --moments -o moments.safetensors"
    "\n\n  graphclone measure smollm2.onnx --data corpus.jsonl --engine ray --workers 4 -o stats.safetensors"
    "\n\n  graphclone measure --merge stats-1.safetensors stats-2.safetensors -o stats.safetensors"
)


@app.command(epilog=EXAMPLES)
def measure(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="An ONNX file, or a folder with one (with --merge: statistics).", show_default=False
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.", show_default=False)] = None,
    data: o.Data = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add up statistics of the same parent.")] = False,
    tokenizer: o.Tokenizer = None,
    column: o.Column = None,
    images: o.Images = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    mask: o.Mask = None,
    moments: o.Moments = False,
    shard: o.Shard = None,
    resume: o.Resume = False,
    checkpoint_every: o.CheckpointEvery = None,
    engine: o.Engine = "here",
    address: o.Address = None,
    workers: o.Workers = None,
    dry_run: o.DryRun = False,
    seed: o.Seed = 0,
    provider: o.Provider = "auto",
    threads: o.Threads = None,
    json: o.Json = False,
) -> None:
    """Which neurons and blocks matter on your data: run the parent on it and keep sums."""
    if output is None and not dry_run:
        raise typer.BadParameter("-o OUTPUT says where to write (or --dry-run)")
    outputs.refuse_same_file(output, *files, data, tokenizer, images)
    if merge:
        typed.refuse_all_but("--merge adds up files of statistics, which were measured: leave it out", *MERGING)
        outputs.refuse_unwritable(output)
        return _written(pipeline.merge_statistics(files), output, json)
    if len(files) != 1 or data is None:
        raise typer.BadParameter("measure takes one MODEL and --data (or --merge and files of statistics)")
    idle.refuse_of_data(data)
    read = (data, tokenizer, length, batch_size, limit, seed)
    asked = request.Calibration(*read, provider, threads, column, images, _shard(shard), mask, moments)
    cluster = _cluster(engine, address, workers)
    if dry_run:
        return _rehearsed(files[0], asked, json)
    checkpoint = request.checkpoint(output, every=checkpoint_every, resume=resume)
    model = pipeline.load(files[0])
    outputs.refuse_same_file(output, *model.external_files)
    held, source = _measured(model, asked, checkpoint, cluster)
    with checkpoint.until_written(held):
        _written(held, output, json, {"filled": source.filled})


def _cluster(engine: str, address: str | None, workers: int | None) -> request.Cluster | None:
    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine {engine!r} is not one of {', '.join(ENGINES)}")
    if engine == "here" and (address or workers):
        raise typer.BadParameter("--address and --workers are of --engine ray")
    return request.Cluster(address, workers) if engine == "ray" else None


def _shard(asked: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", asked or "1/1")
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"--shard is such as 1/4 (the first of four), not {asked!r}")
    return int(found[1]), int(found[2])


def _measured(
    model: Model, asked: request.Calibration, checkpoint: Checkpoint, cluster: request.Cluster | None
) -> tuple[Statistics, Source]:
    model.prepare_sha256()
    anatomy = pipeline.inspect(model)
    asked = asked if cluster is None else asked.everywhere()
    source = request.open_data(model, asked)
    show.data("measuring", source)
    try:
        with show.progress("measuring") as tick:
            made = request.calibrate(model, anatomy, asked, tick, source=source, checkpoint=checkpoint, cluster=cluster)
            return made, source
    except KeyboardInterrupt:
        if checkpoint.batches:
            show.say(f"measuring: {checkpoint.batches} batches are kept in {checkpoint.path}, --resume goes on")
        raise


def _written(held: Statistics, output: Path | None, json: bool, more: dict[str, object] | None = None) -> None:
    assert output is not None
    with outputs.staged(output) as draft:
        held.save(draft)
    if json:
        return show.as_json(
            {
                "output": str(output),
                "sites": len(held.sites),
                "count": held.count,
                "batches": held.batches,
                "parent": held.parent,
                "data": [portion.as_dict() for portion in held.data],
                "providers": list(held.providers),
                "settings": dict(held.settings),
                **(more or {}),
            }
        )
    ran = ", ".join(held.providers)
    print(
        f"{output}: {len(held.sites)} sites of the parent {held.parent[:12]}, {held.count:,} tokens in {held.batches:,}"
        f" batches, run by {ran}"
    )


def _rehearsed(file: Path, asked: request.Calibration, json: bool) -> None:
    model = pipeline.load(file)
    found: Rehearsal = request.rehearse(model, pipeline.inspect(model), asked)
    if json:
        return show.as_json(found.as_dict())
    show.table(("", "dry run"), found.rows())
