"""bench and check: a clone beside its parent, and against what it has to be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphclone import outputs
from graphclone.cli import idle, show
from graphclone.cli import options as o
from graphclone.cli.app import app

if TYPE_CHECKING:
    from graphclone.timing.figures import Bench

LIMITS = "Gates"
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        metavar="N,N",
        help="Of sequences (default: 32,128,512, as far as the parent's positions reach).",
        show_default=False,
    ),
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Sequences a batch.")]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs that count, of each model and length.")]
Warmup = Annotated[int, typer.Option("--warmup", min=0, help="Runs before those.")]
Beside = Annotated[
    Path | None, typer.Option("--parent", help="What shares and ratios are held against.", show_default=False)
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there.", show_default=False)
]


def _limit(
    flag: str, what: str, metavar: str | None = None, check: Callable[..., object] | None = None
) -> typer.models.OptionInfo:
    option = typer.Option(flag, help=what, metavar=metavar, callback=check, rich_help_panel=LIMITS, show_default=False)
    assert isinstance(option, typer.models.OptionInfo)
    return option


SLOWEST = "Most time, of the parent's, at the length where the clone gains least."
SCORE = "Your function(path) gives at least this, or this share of what it gives for the parent; without =N: True."
MaxParams = Annotated[str | None, _limit("--max-params", "Most parameters: 50M, 40%.", "N|N%")]
MaxSize = Annotated[str | None, _limit("--max-size", "Most bytes of all its files: 100MB, 25%.", "N|N%")]
MaxLatencyRatio = Annotated[float | None, _limit("--max-latency-ratio", SLOWEST, check=idle.positive)]
MinScore = Annotated[str | None, _limit("--min-score", SCORE, "MODULE:FUNCTION=N|N%")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="ONNX Runtime's threads.", show_default=False)]
Provider = Annotated[str, typer.Option("--provider", help="auto, cpu or cuda.")]


@app.command(
    epilog="Examples:\n\n  graphclone bench smollm2.onnx small.onnx"
    "\n\n  graphclone bench smollm2.onnx small.onnx --provider cuda --lengths 128,1024 --batch-size 8 --json"
)
def bench(
    parent: o.ParentPath,
    clone: o.ClonePath,
    lengths: Lengths = None,
    batch_size: Batch = 1,
    runs: Runs = 15,
    warmup: Warmup = 3,
    provider: Provider = "auto",
    threads: Threads = None,
    json: o.Json = False,
) -> None:
    """How much faster and smaller a clone is: latency, throughput and memory in ONNX Runtime, run in turns."""
    asked = _lengths(lengths)
    from graphclone.timing.bench import bench as both

    with show.progress("timing") as tick:
        found = both(
            parent,
            clone,
            lengths=asked,
            batch=batch_size,
            runs=runs,
            warmup=warmup,
            provider=provider,
            threads=threads,
            progress=tick,
        )
    if json:
        return show.as_json(found.as_dict())
    _print(found)


@app.command(
    epilog="Examples:\n\n  graphclone check small.onnx --max-params 50M --max-size 100MB"
    "\n\n  graphclone check small.onnx --parent smollm2.onnx --max-latency-ratio 0.5 --junit check.xml"
    "\n\n  graphclone check small.onnx --parent smollm2.onnx --min-score quality.py:accuracy=95% --json"
)
def check(
    clone: o.ClonePath,
    parent: Beside = None,
    max_params: MaxParams = None,
    max_size: MaxSize = None,
    max_latency_ratio: MaxLatencyRatio = None,
    min_score: MinScore = None,
    junit: Junit = None,
    lengths: Lengths = None,
    batch_size: Batch = 1,
    runs: Runs = 15,
    warmup: Warmup = 3,
    provider: Provider = "auto",
    threads: Threads = None,
    json: o.Json = False,
) -> None:
    """Gates for a pipeline: exit code 4 where a clone is larger, slower or worse than it may be."""
    idle.refuse_of_gates(locals())
    asked = _lengths(lengths)
    if junit is not None:
        outputs.refuse_same_file(junit, clone, parent, min_score and min_score.partition("=")[0])
        outputs.refuse_unwritable(junit)
    from graphclone import gates

    limits = gates.Limits(max_params, max_size, max_latency_ratio, min_score)
    timing = {"lengths": asked, "batch": batch_size, "runs": runs, "warmup": warmup}
    with show.progress("timing") as tick:
        timing |= {"provider": provider, "threads": threads, "progress": tick}
        report = gates.examine(clone, limits, parent, timing=timing)
    if junit is not None:
        with outputs.staged(junit) as draft:
            draft.write_text(gates.junit(report, str(clone)), encoding="utf-8")
    if json:
        show.as_json({"clone": str(clone), **report.to_dict()})
    else:
        show.report(report, "Gates")
    report.raise_if_failed("the gates")


def _lengths(asked: str | None) -> list[int]:
    if asked is None:
        return []
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", asked):
        raise typer.BadParameter(f"--lengths is such as 32,128,512, not {asked!r}")
    return [int(length) for length in asked.split(",")]


def _print(found: Bench) -> None:
    both = (found.parent, found.clone)
    head = ("model", "parameters", "MB", "memory MB", "loads in s")
    show.table(head, [(m.model, m.parameters, _mb(m.bytes), _mb(m.device_memory or m.memory), m.load) for m in both])
    unit, rows = found.setting.unit, []
    for k, ratio in enumerate(found.ratios):
        for one in both:
            timing = one.timings[k]
            spread = f"{timing.latency.low * 1e3:.3g} to {timing.latency.high * 1e3:.3g}"
            told = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})" if one is found.clone else ""
            rows.append((timing.length, one.model, timing.latency.median * 1e3, spread, round(timing.throughput), told))
    print()
    show.table(("length", "model", "latency ms", "half of the runs", f"{unit}/s", "of the parent's"), rows)
    held = found.setting
    print(
        f"\nmedians of {held.runs} runs in turns after {held.warmup} that do not count, batch {held.batch}, "
        f"{held.provider} of ONNX Runtime {held.runtime}, {held.processor}"
    )


def _mb(size: int | None) -> float | None:
    return None if size is None else size / 1e6
