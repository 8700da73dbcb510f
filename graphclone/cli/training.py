"""train, pack and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import app
from graphclone.statistics import request


@app.command(
    epilog="Examples:\n\n  graphclone pack small.onnx weights.safetensors -o trained.onnx"
    "\n\n  graphclone pack small.onnx weights.safetensors -o trained.onnx --json"
)
def pack(
    clone: o.ClonePath,
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A .safetensors file.", show_default=False)],
    output: o.Output,
    json: o.Json = False,
) -> None:
    """Weights trained elsewhere, back into the ONNX file they belong to."""
    outputs.refuse_same_file(output, clone, weights)
    tensors = pipeline.read_tensors(weights)
    result = pipeline.pack(pipeline.load(clone), tensors)
    pipeline.save(result, output)
    if json:
        return show.as_json({"output": str(output), "tensors": len(tensors)})
    print(f"{output}: {len(tensors)} tensors of {weights} in the graph of {clone}")


@app.command(
    epilog="Examples:\n\n  graphclone train small.onnx --data python-docs --tokenizer tokenizer.json --steps 200"
    " -o trained.onnx\n\n  graphclone train small.onnx --data corpus.jsonl --tokenizer tokenizer.json --steps 5000"
    " --learning-rate 3e-4 --held-out 20 -o trained.onnx --json"
)
def train(
    clone: o.ClonePath,
    output: o.Output,
    data: Annotated[str, typer.Option("--data", help="Text, as for `measure`.", show_default=False)],
    tokenizer: o.Tokenizer = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates, one batch each.")] = 100,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="At its highest.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of matrices.")] = 0.0,
    held_out: Annotated[int, typer.Option("--held-out", min=0, help="Batches kept from training, to evaluate on.")] = 2,
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Held-out losses on the way.")] = 4,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Train a causal language model in PyTorch on text; ONNX at both ends."""
    from graphclone.pytorch.train import TrainingOptions

    outputs.refuse_same_file(output, clone, data)
    model = pipeline.load(clone)
    source = request.open_data(model, request.Calibration(data, tokenizer, length, batch_size, limit, seed))
    kept, rest = pipeline.hold_out(source, held_out)
    options = TrainingOptions(
        steps, learning_rate, weight_decay, evaluate_every=max(1, steps // evaluations), seed=seed
    )
    with show.progress("training") as tick:
        result, history = pipeline.train(
            model, rest, options, held_out=kept or None, progress=lambda done, total, _: tick(done, total)
        )
    pipeline.save(result, output)
    if json:
        curve = {"losses": history.losses, "held_out": history.evaluations}
        return show.as_json({"output": str(output), "tokens": history.tokens, "seconds": history.seconds, **curve})
    if history.evaluations:
        show.table(("step", "held-out loss"), history.evaluations)
    print(f"{output}: {options.steps} steps, {history.tokens:,} tokens")


@app.command(epilog="Examples:\n\n  graphclone demo\n\n  graphclone demo -o folder --minutes 3 --json")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder, made where it is missing.")] = Path(
        "graphclone-demo"
    ),
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="For training both arms.")] = 6.0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of each arm, instead of --minutes.", show_default=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps: to see that everything works.")] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """All of it on a real model: SmolLM2-135M cut to a tenth, trained beside a twin that starts from nothing."""
    from graphclone.demo import results, story

    output.mkdir(parents=True, exist_ok=True)
    settings = story.Settings(output, minutes, steps, seed=seed)
    found, report = story.run(story.quick(settings) if quick else settings, show.say)
    if json:
        return show.as_json(found.as_dict() | {"verification": report.to_dict()})
    show.table(results.HEAD, found.rows(), "SmolLM2-135M cut to a tenth, trained on Python's language reference")
    print()
    for sentence in found.sentences():
        print(sentence)
    print(f"verified: {report.summary}")
    print(f"{output / 'loss.png'}: both loss curves")
