"""torch and hf: a model as PyTorch source, or as a checkpoint of its family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphclone import outputs, pipeline
from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import app

Folder = Annotated[Path, typer.Option("-o", "--output", help="A folder, made where it is missing.", show_default=False)]


@app.command(
    epilog="Examples:\n\n  graphclone torch small.onnx -o small"
    "\n\n  graphclone torch small.onnx -o small --dropout 0.1 --json"
)
def torch(
    model: o.ModelPath,
    output: Folder,
    dropout: Annotated[float, typer.Option("--dropout", help="Put back where such models are trained with it.")] = 0.0,
    json: o.Json = False,
) -> None:
    """A model as readable PyTorch: model.py and model.safetensors, which run without graphclone."""
    outputs.refuse_nowhere(output)
    written = pipeline.write_torch(pipeline.load(model), output, dropout)
    if json:
        return show.as_json({"output": str(output), **written})
    print(f"{output}: model.py ({written['lines']} lines), model.safetensors ({written['parameters']:,} parameters)")
    if written["integers"]:
        print(f"{written['integers']:,} weights are integers: they stay as they are, and their scales are trained")
    for line in written["notes"]:
        print(line)


@app.command(
    epilog="Examples:\n\n  graphclone hf small.onnx --like parent -o small"
    "\n\n  graphclone hf small.onnx --like parent -o small --json"
)
def hf(
    clone: o.ClonePath,
    like: Annotated[
        Path, typer.Option("--like", help="The folder of the parent's config.json and tokenizer.", show_default=False)
    ],
    output: Folder,
    json: o.Json = False,
) -> None:
    """A clone as a Hugging Face checkpoint of its parent's family, for AutoModel.from_pretrained."""
    outputs.refuse_same_file(output, like)
    outputs.refuse_nowhere(output)
    written = pipeline.write_hugging_face(pipeline.load(clone), like, output)
    if json:
        return show.as_json({"output": str(output), **written})
    beside = f", {', '.join(written['files'])}" if written["files"] else ""
    print(f"{output}: {written['architecture']}, config.json, model.safetensors ({written['tensors']} tensors){beside}")
    if written["difference"] is None:
        print(f"not compared with what Transformers answers: {written['not_compared']}")
    else:
        print(f"Transformers answers as ONNX Runtime does: largest relative difference {written['difference']:.1e}")
