"""inspect, clone and verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphclone import outputs, pipeline
from graphclone.cli import cloning, describe, idle, reporting, show, tournaments, typed
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.graph import Model
    from graphclone.planner import Target
    from graphclone.sizing.budget import Budget


CLONE_EXAMPLES = (
    "Examples:\n\n  graphclone clone smollm2.onnx small.onnx --hidden 192 --heads 3 --kv-heads 1 --ffn 512"
    " --layers 10 --data python-docs --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2.onnx small.onnx --keep-blocks 0-9,20-29 --drop-attention 8,21"
    " --ffn 0-9:1024,20-29:50% --importance magnitude"
    "\n\n  graphclone clone smollm2.onnx small.onnx --params 50M --data corpus.jsonl --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2.onnx small.onnx --hidden 384 --layers 20 --data python-docs"
    " --tokenizer tokenizer.json --method best+read-in+depth-patch"
    "\n\n  graphclone clone smollm2.onnx small.onnx --vocab corpus.txt --tokenizer tokenizer.json"
    "\n\n  graphclone clone smollm2-folder small-folder --layers 50% --importance first"
    "\n\n  graphclone clone smollm2.onnx small.onnx --params 50M --data corpus.jsonl --tokenizer tokenizer.json"
    " --tournament 300@3e-3"
    "\n\n  graphclone clone smollm2.onnx small.onnx --plan plan.json"
)


@app.command(
    epilog="Examples:\n\n  graphclone inspect smollm2.onnx\n\n  graphclone inspect smollm2.onnx --json | jq .stacks"
    "\n\n  graphclone inspect smollm2.onnx --html smollm2.html --stats stats.safetensors"
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
    if html is not None:
        return reporting.drawn(model, html, stats, json=json)
    if stats is not None:
        raise typer.BadParameter("--stats is drawn into a page: give --html FILE too")
    anatomy = pipeline.inspect(opened(model) if json else pipeline.load(model))
    if json:
        return show.as_json({"model": str(model), **describe.as_dict(anatomy)})
    describe.print_anatomy(str(model), anatomy)


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
    timed: o.Timed = None,
    vocab: o.Vocab = None,
    with_config: o.WithConfig = False,
    side_files: o.SideFiles = None,
    data: o.Data = None,
    stats: o.Stats = None,
    plan: o.PlanFile = None,
    importance: o.Importance = "equal-vote",
    method: o.Method = "best",
    depth: o.Depth = "best",
    tournament: o.Tournament = None,
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
    refuse_inputs(out, model, locals())
    files = cloning.Files.of(model, out, side_files, asked=with_config)
    given = locals()
    wish = wished(given)
    parent = opened(files.model, out)
    anatomy = pipeline.inspect(parent)
    tokens = cloning.tokens(parent, anatomy, wish, given)
    chosen = cloning.choose(parent, anatomy, wish, tokens)
    made = cloning.made(parent, anatomy, chosen, method)
    with files.staged() as draft:
        report = pipeline.save_verified(parent, made, draft.out, chosen.plan, shard_size=shard_size)
        after = pipeline.inspect(pipeline.load(draft.out))
        beside = draft.write(tokens, anatomy, after, chosen.plan)
    if json:
        held = {"output": str(out), **beside.as_dict(), **cloning.searched(chosen)}
        return show.as_json({**held, "verification": report.to_dict(), **describe.compared(anatomy, after)})
    tournaments.print_standings(chosen.tournament)
    cloning.print_result((str(model), anatomy), (str(out), after), beside, report.summary)


@app.command(
    epilog="Examples:\n\n  graphclone verify smollm2.onnx small.onnx"
    "\n\n  graphclone verify smollm2.onnx small.onnx --json"
)
def verify(parent: o.ParentPath, clone: o.ClonePath, json: o.Json = False) -> None:
    """Examine a clone against its parent: the file, each weight, the numbers. Exit code 4 where a check fails."""
    report = pipeline.verify(opened(parent), pipeline.load(clone))
    if json:
        show.as_json(report.to_dict())
    else:
        show.report(report)
    report.raise_if_failed()


def opened(path: Path, out: Path | None = None) -> Model:
    """A model whose fingerprint will be asked for: its file is read for it while other work goes on. ``out`` may be
    none of its files."""
    model = pipeline.load(path)
    if out is not None:
        outputs.refuse_same_file(out, *model.external_files)
    model.prepare_sha256()
    return model


HOW = ("importance", "method", "depth")
READ = ("data", "stats", "plan", "tokenizer", "images", "vocab", "side_files")  # options that name what is read


def refuse_inputs(out: Path | None, model: Path, given: Mapping[str, Any]) -> None:
    """What is written, the files of a trimmed vocabulary too, is nothing of what is read. Raises InvalidTarget."""
    outputs.refuse_same_file(out, model, *(given.get(name) for name in READ))
    if out is not None and given["vocab"]:
        for suffix in (".tokenizer.json", ".vocab.json"):
            outputs.refuse_same_file(out.with_suffix(suffix), *(given.get(name) for name in READ))


def _refuse_two_sources(
    plan: Path | None, target: Target, data: str | None, stats: Path | None, vocab: str | None
) -> None:
    if plan and (not target.empty or vocab):
        raise typer.BadParameter("--plan already says what is kept: give it without a target and without --vocab")
    if plan:
        typed.refuse("--plan already says how neurons and blocks were chosen: leave it out", *HOW)
    if data and stats:
        raise typer.BadParameter("--data measures, --stats was measured: give one of them")


def wished(given: Mapping[str, Any]) -> cloning.Wish:
    """What `plan` or `clone` is asked for, from its own arguments by name. Raises BadParameter, InvalidTarget."""
    from graphclone.sizing.clock import Clock
    from graphclone.sizing.judges import GREEDY

    sizes = ("hidden", "heads", "kv_heads", "head_dim", "ffn", "layers", "keep_blocks", "drop_attention", "drop_ffn")
    target = _target(*(given[name] for name in sizes), deeper=given["deeper"])
    read = ("tokenizer", "length", "batch_size", "limit", "seed", "provider", "threads", "column", "images")
    asked = request.Calibration(given["data"] or "", *(given[name] for name in read))
    plan, tournament = given.get("plan"), given.get("tournament")
    _refuse_two_sources(plan, target, given["data"], given["stats"], given["vocab"])
    idle.refuse_of_clones(given)
    budget = _budget(target, plan, given["params"], given["size"], given["latency"])
    training = tournaments.read(tournament) if tournament else None
    importance, method, depth = (given[name] for name in HOW)
    if depth == GREEDY and not training and (budget or target.layers is None or not given["data"]):
        raise typer.BadParameter("--depth greedy drops blocks one by one: give --layers and --data, and no budget")
    known = asked if given["data"] else None
    clock = Clock.of(given["timed"] or "1x128", given["provider"], given["threads"])
    return cloning.Wish(target, plan, given["stats"], known, importance, method, depth, budget, training, clock)


def _budget(
    target: Target, plan: Path | None, params: str | None, size: str | None, latency: str | None
) -> Budget | None:
    """What a clone may have, instead of sizes. Raises typer.BadParameter where both are given."""
    from graphclone.sizing.budget import Budget

    found = Budget(params, size, latency)
    if found.empty:
        return None
    if plan or not target.empty:
        raise typer.BadParameter(
            "--params, --size and --latency choose the sizes: give no sizes and no --plan with them"
        )
    return found


def _target(*sizes: str | None, deeper: bool = False) -> Target:
    """In the order of Target's fields."""
    from graphclone.planner import Target

    return Target(*sizes, deeper=deeper)
