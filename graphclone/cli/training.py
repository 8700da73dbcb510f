"""pack and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import app


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
    outputs.refuse_unwritable(output)
    tensors = pipeline.read_tensors(weights)
    result = pipeline.pack(pipeline.load(clone), tensors)
    pipeline.save(result, output)
    if json:
        return show.as_json({"output": str(output), "tensors": len(tensors)})
    print(f"{output}: {len(tensors)} tensors of {weights} in the graph of {clone}")


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
