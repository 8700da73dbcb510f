"""The printed anatomy of every cell, as text that a person reviews: a file for each row, equal texts once.

``python -m tools.goldens --zoo [FOLDER]`` writes them from the verdicts of `make zoo`, which compares them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphclone.anatomy.parts import Anatomy, Linear
from graphclone.cli.describe import print_anatomy
from graphclone.graph import Model
from tools.zoo.code import ROOT
from tools.zoo.columns import COLUMNS

FOLDER = ROOT / "tests" / "golden" / "zoo"
SHOWN = (None, 0)  # blocks whose products are listed: the others repeat
MARK = "== "


def printed(title: str, model: Model, anatomy: Anatomy) -> str:
    """What `graphclone inspect` prints, and which groups each product of the first block reads and writes."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_anatomy(title, anatomy)
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


def read(row: str, folder: Path = FOLDER) -> dict[str, str]:
    """The goldens of a row, by column."""
    file = folder / f"{row}.txt"
    held: dict[str, str] = {}
    if file.exists():
        for part in file.read_text(encoding="utf-8").split("\n" + MARK):
            names, _, text = part.removeprefix(MARK).partition("\n")
            held |= dict.fromkeys(names.split(", "), text.rstrip("\n"))
    return held


def write(row: str, texts: Mapping[str, str], folder: Path = FOLDER) -> Path:
    """Write a row's goldens; columns that ``texts`` does not have stay as they are."""
    held = read(row, folder) | {name: text.rstrip("\n") for name, text in texts.items()}
    alike: dict[str, list[str]] = {}
    for name in COLUMNS:
        if name in held:
            alike.setdefault(held[name], []).append(name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{row}.txt"
    said = "\n\n".join(f"{MARK}{', '.join(names)}\n{text}" for text, names in alike.items())
    file.write_text(said + "\n", encoding="utf-8")
    return file


def changed(verdicts: Iterable[Mapping[str, Any]], folder: Path = FOLDER) -> list[str]:
    """Cells whose printed anatomy is not their golden, or that have none."""
    return [
        f"{v['row']}-{v['column']}"
        for v in verdicts
        if v["anatomy"] and v["anatomy"].rstrip("\n") != read(v["row"], folder).get(v["column"])
    ]
