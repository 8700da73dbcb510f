"""Write the printed anatomies into tests/golden, where a change shows up as a diff to review.

    python -m tools.goldens [NAME ...]
    python -m tools.goldens --zoo [FOLDER]

Every recipe by every exporter, or those that are named; a recipe whose package is not installed is left as it is, and
said so. --zoo: every green cell in a folder of `make zoo` (its own, where none is given).
"""

from __future__ import annotations

import sys
from pathlib import Path

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.errors import GraphCloneError
from models import cache_folder
from models.recipe import Exporter
from tools.zoo import goldens as zoo
from tools.zoo import table

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "anatomy"


def cells() -> list[tuple[str, Exporter]]:
    """Every recipe by each of its exporters."""
    return [(name, exporter) for name, row in models.TABLE.items() for exporter in row.exporters]


def text(name: str, exporter: Exporter) -> str:
    """The printed anatomy of one recipe by one exporter."""
    model = graph.load(models.cached(name, exporter=exporter))
    return zoo.printed(f"{name} by {exporter}", model, inspect(model))


def file(name: str, exporter: Exporter) -> Path:
    """Where the golden of a cell lies."""
    return FOLDER / f"{name}-{exporter}.txt"


def matrix(folder: Path) -> None:
    """The goldens of `make zoo`, of every export in its folder whose verdict is green."""
    rows: dict[str, dict[str, str]] = {}
    for (row, column), verdict in table.read(folder).items():
        export = folder / f"{row}-{column}.onnx"
        if verdict["verdict"] == "green" and export.exists():
            model = graph.load(export)
            rows.setdefault(row, {})[column] = zoo.printed(row, model, inspect(model))
    for row, texts in rows.items():
        print(zoo.write(row, texts).name, *texts)


def main(names: list[str]) -> int:
    """Exit code 0, or 1 where a name is no recipe's."""
    if names[:1] == ["--zoo"]:
        matrix(Path(names[1]) if names[1:] else cache_folder().parent / "zoo")
        return 0
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
