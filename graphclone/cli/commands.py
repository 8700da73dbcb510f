"""inspect, plan, clone and verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import cloning, describe, reporting, show
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.graph import Model
    from graphclone.planner import Target


CLONE_EXAMPLES = (
    "Examples:\n\n  graphclone clone smollm2.onnx small.onnx --hidden 192 --heads 3 --kv-heads 1 --ffn 512"
    " --layers 10 --data python-docs --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2.onnx small.onnx --keep-blocks 0-9,20-29 --drop-attention 8,21"
    " --ffn 0-9:1024,20-29:50% --importance magnitude"
    "\n\n  graphclone clone smollm2.onnx small.onnx --params 50M --data corpus.jsonl --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2.onnx small.onnx --vocab corpus.txt --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2-folder small-folder --layers 50% --importance first"
    "\n\n  graphclone clone smollm2.onnx small.onnx --plan plan.json"
)


@app.command(
    epilog="Examples:\n\n  graphclone inspect smollm2.onnx\n\n  graphclone inspect smollm2.onnx --json | jq .stacks"
)
def inspect(
    model: o.ModelPath,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Draw it, as a page for a browser.", show_default=False),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option("--stats", help="For --html: what `measure` wrote, else weights alone.", show_default=False),
    ] = None,
    json: o.Json = False,
) -> None:
    """What is in a model: its stacks of blocks, what can be cut, and what is pinned and why."""
    "\n\n  graphclone inspect smollm2.onnx --html smollm2.html --stats stats.safetensors"
    anatomy = pipeline.inspect(_opened(model) if json else pipeline.load(model))
    if json:
        return show.as_json({"model": str(model), **describe.as_dict(anatomy)})
    if html is not None:
        return reporting.drawn(model, html, stats, json=json)
    if stats is not None:
        raise typer.BadParameter("--stats is drawn into a page: give --html FILE too")
    describe.print_anatomy(str(model), anatomy)


@app.command(
    epilog="Examples:\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --hidden 50% --layers 15 -o plan.json"
    "\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --params 50M"
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
    deeper: o.Deeper = False,
    params: o.Params = None,
    size: o.Size = None,
    vocab: o.Vocab = None,
    tokenizer: o.Tokenizer = None,
    importance: o.Importance = "equal-vote",
    method: o.Method = "best",
    depth: o.Depth = "paper",
    json: o.Json = False,
) -> None:
    """What a clone of that shape would keep and drop, and how many parameters it has; writes no model."""
    outputs.refuse_same_file(output or "", model, stats)
    parent = _opened(model)
    anatomy = pipeline.inspect(parent)
    target = _target(
        hidden, heads, kv_heads, head_dim, ffn, layers, keep_blocks, drop_attention, drop_ffn, deeper=deeper
    )
    budget = cloning.budget(target, None, params, size, None)
    wish = cloning.Wish(target, None, stats, None, importance, method, depth, budget)
    made = cloning.choose(parent, anatomy, wish, cloning.tokens(parent, anatomy, vocab, wish, tokenizer)).plan
    if output:
        with outputs.staged(output) as draft:
            draft.write_text(made.to_json() + "\n")
    held = describe.planned(anatomy, made) | {"parameters": pipeline.parameters(parent, made, anatomy=anatomy)}
    if json:
        return show.as_json({"output": str(output) if output else None, **held})
    describe.print_plan(anatomy, made)
    if held["parameters"] is not None:
        print(f"\nparameters: {anatomy.parameters:,} -> {held['parameters']:,}")


@app.command(epilog=CLONE_EXAMPLES)
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
    deeper: o.Deeper = False,
    params: o.Params = None,
    size: o.Size = None,
    latency: o.Latency = None,
    vocab: o.Vocab = None,
    with_config: o.WithConfig = False,
    side_files: o.SideFiles = None,
    data: o.Data = None,
    stats: o.Stats = None,
    plan: o.PlanFile = None,
    importance: o.Importance = "equal-vote",
    method: o.Method = "best",
    depth: o.Depth = "paper",
    tokenizer: o.Tokenizer = None,
    column: o.Column = None,
    images: o.Images = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    provider: o.Provider = "auto",
    threads: o.Threads = None,
    shard_size: o.ShardSize = None,
    json: o.Json = False,
) -> None:
    """Write a smaller model of exactly the asked shape, examined before it gets its name."""
    outputs.refuse_same_file(out, model, stats, plan)
    files = cloning.Files.of(model, out, side_files, asked=with_config)
    sizes = (hidden, heads, kv_heads, head_dim, ffn, layers, keep_blocks, drop_attention, drop_ffn)
    target = _target(*sizes, deeper=deeper)
    _refuse_two_sources(plan, target, data, stats, vocab)
    parent = _opened(files.model, out)
    anatomy = pipeline.inspect(parent)
    read = (data or "", tokenizer, length, batch_size, limit, seed, provider, threads, column, images)
    asked, budget = request.Calibration(*read), cloning.budget(target, plan, params, size, latency)
    wish = cloning.Wish(target, plan, stats, asked if data else None, importance, method, depth, budget)
    tokens = cloning.tokens(parent, anatomy, vocab, wish, tokenizer, side_files)
    chosen = cloning.choose(parent, anatomy, wish, tokens)
    made = pipeline.clone(parent, chosen.plan, chosen.statistics, anatomy=anatomy, affine=chosen.affine)
    with files.staged() as draft:
        report = pipeline.save_verified(parent, made, draft.out, chosen.plan, shard_size=shard_size)
        after = pipeline.inspect(pipeline.load(draft.out))
        beside = draft.write(tokens, anatomy, after, chosen.plan)
    if json:
        held = {"output": str(out), "beside": beside.files, "not_updated": beside.warnings, "left": beside.left}
        return show.as_json({**held, "verification": report.to_dict(), **describe.compared(anatomy, after)})
    cloning.print_result((str(model), anatomy), (str(out), after), beside, report.summary)


@app.command(
    epilog="Examples:\n\n  graphclone verify smollm2.onnx small.onnx"
    "\n\n  graphclone verify smollm2.onnx small.onnx --json"
)
def verify(parent: o.ParentPath, clone: o.ClonePath, json: o.Json = False) -> None:
    """Examine a clone against its parent: the file, each weight, the numbers. Exit code 4 where a check fails."""
    report = pipeline.verify(_opened(parent), pipeline.load(clone))
    if json:
        show.as_json(report.to_dict())
    else:
        show.report(report)
    report.raise_if_failed()


def _opened(path: Path, out: Path | None = None) -> Model:
    """A model whose fingerprint will be asked for: its file is read for it while other work goes on. ``out`` may be
    none of its files."""
    model = pipeline.load(path)
    if out is not None:
        outputs.refuse_same_file(out, *model.external_files)
    model.prepare_sha256()
    return model


def _refuse_two_sources(
    plan: Path | None, target: Target, data: str | None, stats: Path | None, vocab: str | None
) -> None:
    if plan and (not target.empty or vocab):
        raise typer.BadParameter("--plan already says what is kept: give it without a target and without --vocab")
    if data and stats:
        raise typer.BadParameter("--data measures, --stats was measured: give one of them")


def _target(*sizes: str | None, deeper: bool = False) -> Target:
    """In the order of Target's fields."""
    from graphclone.planner import Target

    return Target(*sizes, deeper=deeper)
