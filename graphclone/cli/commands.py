"""inspect, plan, clone and verify."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import describe, show
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.planner import Target
    from graphclone.statistics.store import Statistics


@app.command(
    epilog="Examples:\n\n  graphclone inspect smollm2.onnx\n\n  graphclone inspect smollm2.onnx --json | jq .stacks"
)
def inspect(model: o.ModelPath, json: o.Json = False) -> None:
    """What is in a model: its stacks of blocks, what can be cut, and what is pinned and why."""
    anatomy = pipeline.inspect(pipeline.load(model))
    if json:
        return show.as_json({"model": str(model), **describe.as_dict(anatomy)})
    describe.print_anatomy(str(model), anatomy)


@app.command(
    epilog="Examples:\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --hidden 50% --layers 15 -o plan.json"
    "\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --heads 3 --kv-heads 1 --json"
)
def plan(
    model: o.ModelPath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the plan.")] = None,
    stats: o.Stats = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    kv_heads: o.KvHeads = None,
    head_dim: o.HeadDim = None,
    ffn: o.Ffn = None,
    layers: o.Layers = None,
    keep_blocks: o.KeepBlocks = None,
    drop_attention: o.DropAttention = None,
    drop_ffn: o.DropFfn = None,
    importance: o.Importance = "paper",
    method: o.Method = "paper",
    depth: o.Depth = "paper",
    json: o.Json = False,
) -> None:
    """What a clone of that shape would keep and drop; writes no model."""
    outputs.refuse_same_file(output or "", model, stats)
    parent = pipeline.load(model)
    anatomy = pipeline.inspect(parent)
    target = _target(hidden, heads, kv_heads, head_dim, ffn, layers, keep_blocks, drop_attention, drop_ffn)
    held = pipeline.read_statistics(stats) if stats else None
    weights = parent.constants()
    made = pipeline.plan(anatomy, held, target, importance=importance, method=method, depth=depth, weights=weights)
    if output:
        with outputs.staged(output) as draft:
            draft.write_text(made.to_json() + "\n")
    if json:
        return show.as_json({"output": str(output) if output else None, **describe.planned(anatomy, made)})
    describe.print_plan(anatomy, made)


@app.command(
    epilog="Examples:\n\n  graphclone clone smollm2.onnx small.onnx --hidden 192 --heads 3 --kv-heads 1 --ffn 512"
    " --layers 10 --data python-docs --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2.onnx small.onnx --keep-blocks 0-9,20-29 --drop-attention 8,21"
    " --ffn 0-9:1024,20-29:50% --importance magnitude"
    "\n\n  graphclone clone smollm2.onnx small.onnx --plan plan.json"
)
def clone(
    model: o.ModelPath,
    out: o.OutPath,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    kv_heads: o.KvHeads = None,
    head_dim: o.HeadDim = None,
    ffn: o.Ffn = None,
    layers: o.Layers = None,
    keep_blocks: o.KeepBlocks = None,
    drop_attention: o.DropAttention = None,
    drop_ffn: o.DropFfn = None,
    data: o.Data = None,
    stats: o.Stats = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="What `plan` wrote, instead of a target.", show_default=False)
    ] = None,
    importance: o.Importance = "paper",
    method: o.Method = "paper",
    depth: o.Depth = "paper",
    tokenizer: o.Tokenizer = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    provider: o.Provider = "auto",
    threads: o.Threads = None,
    json: o.Json = False,
) -> None:
    """Write a smaller model of exactly the asked shape, examined before it gets its name."""
    outputs.refuse_same_file(out, model, stats, plan)
    target = _target(hidden, heads, kv_heads, head_dim, ffn, layers, keep_blocks, drop_attention, drop_ffn)
    _refuse_two_sources(plan, target, data, stats)
    parent = pipeline.load(model)
    anatomy = pipeline.inspect(parent)
    held, affine = pipeline.read_statistics(stats) if stats else None, None
    asked = request.Calibration(data or "", tokenizer, length, batch_size, limit, seed, provider, threads)
    calibration = replace(asked, moments="least-squares" in method) if data else None
    if plan:
        chosen = pipeline.read_plan(plan)
        if calibration:
            calibration = replace(calibration, moments="least-squares" in chosen.method)
            held = _measured(parent, anatomy, calibration)
    else:
        # a shape out of reach is said before anything is measured
        pipeline.refuse_unreachable(anatomy, target, importance=importance, method=method, depth=depth)
        if calibration:
            held = _measured(parent, anatomy, calibration)
        weights = parent.constants()
        chosen = pipeline.plan(
            anatomy, held, target, importance=importance, method=method, depth=depth, weights=weights
        )
    if calibration:
        affine = _measured_kept(parent, anatomy, chosen, calibration)
    made = pipeline.clone(parent, chosen, held, anatomy=anatomy, affine=affine)
    report = pipeline.save_verified(parent, made, out, chosen)
    after = pipeline.inspect(pipeline.load(out))
    if json:
        return show.as_json({"output": str(out), **describe.compared(anatomy, after), "verification": report.to_dict()})
    describe.print_comparison(str(model), anatomy, str(out), after)
    print(f"\nverified: {report.summary}")


@app.command(
    epilog="Examples:\n\n  graphclone verify smollm2.onnx small.onnx"
    "\n\n  graphclone verify smollm2.onnx small.onnx --json"
)
def verify(parent: o.ParentPath, clone: o.ClonePath, json: o.Json = False) -> None:
    """Examine a clone against its parent: the file, each weight, the numbers. Exit code 4 where a check fails."""
    report = pipeline.verify(pipeline.load(parent), pipeline.load(clone))
    if json:
        show.as_json(report.to_dict())
    else:
        show.report(report)
    report.raise_if_failed()


def _refuse_two_sources(plan: Path | None, target: Target, data: str | None, stats: Path | None) -> None:
    if plan and target != _target():
        raise typer.BadParameter("--plan already says what is kept: give it without a target")
    if data and stats:
        raise typer.BadParameter("--data measures, --stats was measured: give one of them")


def _target(*sizes: str | None) -> Target:
    """In the order of Target's fields."""
    from graphclone.planner import Target

    return Target(*sizes)


def _measured_kept(model: Model, anatomy: Anatomy, plan: Plan, calibration: request.Calibration) -> Statistics | None:
    """The second pass over the data, where the plan's method has use for it."""
    if not pipeline.takes_second_pass(anatomy, plan):
        return None
    with show.progress("measuring what is kept") as tick:
        return pipeline.measure_kept(
            model,
            plan,
            request.open_data(model, calibration),
            anatomy=anatomy,
            provider=calibration.provider,
            threads=calibration.threads,
            progress=tick,
        )


def _measured(model: Model, anatomy: Anatomy, calibration: request.Calibration) -> Statistics:
    with show.progress("measuring") as tick:
        return request.calibrate(model, anatomy, calibration, progress=tick)
