"""train, pack and demo."""

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
    tensors = pipeline.read_tensors(weights)
    result = pipeline.pack(pipeline.load(clone), tensors)
    pipeline.save(result, output)
    if json:
        return show.as_json({"output": str(output), "tensors": len(tensors)})
    print(f"{output}: {len(tensors)} tensors of {weights} in the graph of {clone}")
