"""plan: what a clone would be, without making it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphclone import outputs, pipeline
from graphclone.cli import cloning, commands, describe, show
from graphclone.cli import options as o
from graphclone.cli.app import app
from graphclone.errors import InvalidTarget

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.sizing.clock import Clock
    from graphclone.sizing.prediction import Prediction

EXAMPLES = (
    "Examples:\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --hidden 50% --layers 15 -o plan.json"
    "\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --params 50M"
    "\n\n  graphclone plan smollm2.onnx --latency 50% --timed 1x256 --data corpus.jsonl --tokenizer tokenizer.json"
    "\n\n  graphclone plan smollm2.onnx --stats stats.safetensors --heads 3 --kv-heads 1 --json"
)


@app.command(epilog=EXAMPLES)
def plan(
    model: o.ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the plan; -: standard output.")
    ] = None,
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
    stats: o.Stats = None,
    data: o.Data = None,
    tokenizer: o.Tokenizer = None,
    column: o.Column = None,
    images: o.Images = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    provider: o.Provider = "auto",
    threads: o.Threads = None,
    importance: o.Importance = "equal-vote",
    method: o.Method = "best",
    depth: o.Depth = "best",
    json: o.Json = False,
) -> None:
    """What a clone would keep and drop, its parameters, bytes and latency, by a dry run: no model is written."""
    commands.refuse_inputs(output, model, locals())
    outputs.refuse_unwritable(None if str(output) == "-" else output)
    given = locals()
    wish = commands.wished(given)
    parent = commands.opened(model, output)
    anatomy = pipeline.inspect(parent)
    chosen = cloning.choose(parent, anatomy, wish, cloning.tokens(parent, anatomy, wish, given))
    clock = wish.clock if timed is not None or wish.clock is None else wish.clock.within(parent)
    predicted, before = _predicted(parent, anatomy, chosen, clock, asked=timed is not None)
    if output and str(output) != "-":
        with outputs.staged(output) as draft:
            draft.write_text(chosen.plan.to_json() + "\n")
    if str(output) == "-":
        return show.line(chosen.plan.to_json())
    if json:
        told = asdict(predicted) | {"parent_latency": before} | cloning.searched(chosen)
        held = describe.planned(anatomy, chosen.plan) | told
        return show.as_json({"output": str(output) if output else None, **held})
    describe.print_plan(anatomy, chosen.plan)
    print()
    _print(parent, anatomy, predicted, before, clock)


def _predicted(
    parent: Model, anatomy: Anatomy, chosen: cloning.Chosen, clock: Clock | None, *, asked: bool
) -> tuple[Prediction, float | None]:
    """Of the plan, and the parent's latency; a batch that nobody asked for and does not run leaves out that alone."""
    if chosen.affine is None and pipeline.needs_second_pass(anatomy, chosen.plan):
        once_more = f"{chosen.plan.method} measures once more what the plan keeps: `clone` needs --data"
        show.say(f"graphclone: warning: the bytes lack what is noted of a second pass: {once_more}")
    measured: dict[str, Any] = {"stats": chosen.statistics, "affine": chosen.affine, "anatomy": anatomy}
    try:
        found = pipeline.predict(parent, chosen.plan, **measured, clock=clock)
        return found, None if clock is None else clock.parent(parent, anatomy)
    except InvalidTarget as reason:
        if asked or not str(reason).startswith("timed"):
            raise
        show.say(f"graphclone: warning: latency is not predicted: {reason}")
        return pipeline.predict(parent, chosen.plan, **measured), None


def _print(parent: Model, anatomy: Anatomy, predicted: Prediction, before: float | None, clock: Clock | None) -> None:
    from graphclone.sizing.prediction import size_of

    rows: list[tuple[Any, ...]] = [
        ("parameters", anatomy.parameters, predicted.parameters),
        ("bytes", size_of(parent), predicted.size),
    ]
    show.table(("predicted", "parent", "clone"), rows)
    if predicted.latency is not None and before is not None and clock is not None:
        print(f"\nlatency: {predicted.latency * 1e3:.3g} ms, the parent's {before * 1e3:.3g} ms ({clock.shown})")
