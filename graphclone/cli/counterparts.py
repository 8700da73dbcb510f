"""try and olive-config: a folder in the tool that reads such folders, and graphclone as a pass of Olive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphclone.cli import options as o
from graphclone.cli import show
from graphclone.cli.app import app

Tried = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="As a tool reads it, or `clone` wrote.", show_default=False)
]
Tool = Annotated[
    str | None,
    typer.Option(
        "--with",
        help="genai, optimum or sentence-transformers; by default the one whose files lie there.",
        show_default=False,
    ),
]


@app.command(
    "try",
    epilog='Examples:\n\n  graphclone try small-folder --prompt "The capital of France is"'
    "\n\n  graphclone try small-folder --with optimum --json",
)
def try_(
    folder: Tried,
    tool: Tool = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What a model is given.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="How many tokens a language model generates.")] = 24,
    json: o.Json = False,
) -> None:
    """Load a folder in onnxruntime-genai, Optimum or sentence-transformers, and let it run once."""
    from graphclone.trying import PROMPT, Asked, attempt

    asked = Asked(PROMPT if prompt is None else prompt, tokens)
    found = attempt(folder, tool, asked)
    if json:
        return show.as_json({"folder": str(folder), "prompt": asked.prompt, **found.as_dict()})
    print(f"{folder}: runs in {found.tool} {found.version}")
    if found.text is not None:
        print(f"\n{asked.prompt}{found.text}")
    else:
        print(f"\n{found.width} numbers: {', '.join(map(str, found.numbers))}, ...")


@app.command(
    "olive-config",
    epilog="Examples:\n\n  graphclone olive-config -o passes.json"
    "\n\n  graphclone olive-config -o passes.json && olive run --config run.json --package-config passes.json",
)
def olive_config(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write; by default it is printed.", show_default=False),
    ] = None,
    json: o.Json = False,
) -> None:
    """The list of passes for `olive run --package-config`: Olive's own, and GraphClone."""
    from json import dumps

    from graphclone import outputs
    from graphclone.olive.package import configuration

    held = configuration()
    text = dumps(held, indent=2)
    if output is None:
        return show.as_json(held) if json else print(text)
    with outputs.staged(output) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    if json:
        return show.as_json({"output": str(output), "passes": sorted(held["passes"])})
    print(f"{output}: Olive's passes and GraphClone: olive run --config run.json --package-config {output}")
