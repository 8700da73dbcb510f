"""Write the printed anatomy of every recipe into tests/golden/anatomy, where a change shows up as a diff to review.

    python tools/goldens.py [NAME ...]

Without names, every recipe by every exporter; a recipe whose package is not installed is left as it is, and said so.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Linear
from graphclone.cli.describe import print_anatomy
from graphclone.errors import GraphCloneError
from graphclone.graph import Model
from models.recipe import Exporter

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "anatomy"
SHOWN = (None, 0)  # blocks whose products are listed: the others repeat


def cells() -> list[tuple[str, Exporter]]:
    """Every recipe by each of its exporters."""
    return [(name, exporter) for name, row in models.TABLE.items() for exporter in row.exporters]


def text(name: str, exporter: Exporter) -> str:
    """What `graphclone inspect` prints, and which groups each product of the first block reads and writes."""
    model = graph.load(models.cached(name, exporter=exporter))
    anatomy = inspect(model)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_anatomy(f"{name} by {exporter}", anatomy)
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    return "\n".join([*lines, "", "products outside the blocks and in the first:", *products(model, anatomy), ""])


def products(model: Model, anatomy: Anatomy) -> list[str]:
    """``residual -> blocks.0.ffn  weight [48, 160]``, in graph order, without the exporter's names."""
    home = {node: block.index for stack in anatomy.stacks for block in stack.blocks for node in block.nodes}
    shapes = {name: list(array.shape) for name, array in model.constants().items()}
    shown = [linear for linear in anatomy.linears if home.get(linear.node) in SHOWN]
    return [f"  {_side(linear.reads)} -> {_side(linear.writes)}  weight {_shape(shapes, linear)}" for linear in shown]


def _side(groups: tuple[str, ...]) -> str:
    return " x ".join(groups) or "numbers"


def _shape(shapes: dict[str, list[int]], linear: Linear) -> str:
    return str(shapes.get(linear.weight, "computed"))


def file(name: str, exporter: Exporter) -> Path:
    """Where the golden of a cell lies."""
    return FOLDER / f"{name}-{exporter}.txt"


def main(names: list[str]) -> int:
    """Exit code 0, or 1 where a name is no recipe's."""
    if unknown := set(names) - models.TABLE.keys():
        print(f"no recipe named {', '.join(sorted(unknown))}; there are {', '.join(models.TABLE)}", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, exporter in cells():
        if not names or name in names:
            try:
                golden = text(name, exporter)
            except GraphCloneError as reason:
                print(f"{name} by {exporter} left as it is: {reason}", file=sys.stderr)
                continue
            file(name, exporter).write_text(golden, encoding="utf-8")
            print(file(name, exporter).relative_to(Path.cwd()) if FOLDER.is_relative_to(Path.cwd()) else golden[:40])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
