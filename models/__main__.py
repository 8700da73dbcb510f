"""python -m models NAME -o FILE: write a parent as an ONNX file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from graphclone.errors import GraphCloneError
from models.building import build, tokenizer_beside
from models.checkpoint import checkpoint
from models.recipe import ATTENTIONS, EXPORTERS, Recipe, Shape
from models.table import TABLE

SIZES = tuple(f.name for f in fields(Shape))
EPILOG = """examples:
  python -m models smollm2 -o smollm2.onnx
  python -m models smollm2 --checkpoint -o smollm2
  python -m models llama --exporter torchscript --hidden 32 --heads 4 --kv-heads 2 -o small.onnx

Everything is read from installed packages; nothing is fetched from a model hub. A parent that has a tokenizer
gets it beside the model, as FILE.tokenizer.json.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        "python -m models",
        description="Write a parent, real or of seeded random weights, as an ONNX file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("name", nargs="?", metavar="NAME", help=", ".join(TABLE))
    top.add_argument("-o", "--output", metavar="FILE", help="where to write (default: NAME.onnx)")
    top.add_argument("--exporter", choices=EXPORTERS, help="which of PyTorch's exporters (default: dynamo)")
    top.add_argument("--attention", choices=ATTENTIONS, default="sdpa", help="how attention is written in PyTorch")
    top.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    top.add_argument("--checkpoint", action="store_true", help="write a folder for transformers instead, into -o")
    top.add_argument("--list", action="store_true", help="list the recipes and leave")
    shape = top.add_argument_group("shape of a seeded parent (default: the recipe's own, see --list)")
    for size in SIZES:
        shape.add_argument(f"--{size.replace('_', '-')}", type=int, metavar="N")
    return top


def describe(row: Recipe) -> str:
    """The recipe's summary, with the sizes that can be chosen."""
    sizes = {name: getattr(row.shape, name) for name in SIZES}
    chosen = ", ".join(f"{name.replace('_', '-')} {size}" for name, size in sizes.items() if size is not None)
    return f"{row.summary} ({chosen})" if chosen else row.summary


def show_recipes() -> None:
    """Print the table of recipes to standard output."""
    table = Table("recipe", "what it is", box=None)
    for row in TABLE.values():
        table.add_row(row.name, describe(row))
    Console().print(table)


def run(arguments: argparse.Namespace) -> None:
    """Build one recipe, with what is going on shown on standard error."""
    console = Console(file=sys.stderr)  # held: the exporters' own chatter is redirected away meanwhile
    started = time.monotonic()
    sizes = {size: getattr(arguments, size) for size in SIZES}
    with console.status(arguments.name) as status:

        def progress(message: str) -> None:
            status.update(message)
            if not console.is_terminal:
                console.print(message, highlight=False)

        if arguments.checkpoint:
            folder = checkpoint(arguments.name, arguments.output or arguments.name, seed=arguments.seed, **sizes)
            console.print(f"{folder}: {', '.join(sorted(f.name for f in folder.iterdir()))}", highlight=False)
            return
        file = build(
            arguments.name,
            arguments.output or f"{arguments.name}.onnx",
            exporter=arguments.exporter,
            attention=arguments.attention,
            seed=arguments.seed,
            progress=progress,
            **sizes,
        )
    tokenizer = tokenizer_beside(file)
    beside = f", {tokenizer}" if tokenizer.is_file() else ""
    size, seconds = file.stat().st_size / 1e6, time.monotonic() - started
    console.print(f"{file} ({size:.1f} MB){beside} in {seconds:.0f} s", highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 usage, and those of graphclone's errors."""
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.list:
        show_recipes()
        return 0
    if arguments.name is None:
        top.error(f"which recipe? there are {', '.join(TABLE)}")
    try:
        run(arguments)
    except GraphCloneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
