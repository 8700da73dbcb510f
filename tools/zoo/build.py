"""Export cells: ``python -m tools.zoo.build FOLDER [ROW-COLUMN pattern...]``; what exists stays.

Beside ROW-COLUMN.onnx lies ROW-COLUMN.json, the anatomy to be found; INDEX.json says of each cell how its export went.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from tools.zoo.columns import COLUMNS, Column
from tools.zoo.row import Row
from tools.zoo.rows import ROWS


def cells(patterns: list[str]) -> list[tuple[Row, Column]]:
    """The cells of the matrix that exist and match, column by column."""
    every = [(row, column) for column in COLUMNS.values() for row in ROWS.values() if column.applies(row)]
    return [(r, c) for r, c in every if any(fnmatch(f"{r.name}-{c.name}", p) for p in patterns or ["*"])]


def build(row: Row, column: Column, folder: Path) -> Path:
    """Export one cell; raises whatever the exporter raises."""
    file = folder / f"{row.name}-{column.name}.onnx"
    partial = file.with_suffix(".part")
    column.build(row, row.sizes, partial)
    expected = {"row": row.name, "column": column.name, "stacks": [asdict(s) for s in row.expected(row.sizes)]}
    file.with_suffix(".json").write_text(json.dumps(expected, indent=1))
    os.replace(partial, file)
    return file


def present(row: Row, column: Column, folder: Path) -> bool:
    """Whether a cell's export is there, and of the sizes that the row has now."""
    file = folder / f"{row.name}-{column.name}.onnx"
    described = file.with_suffix(".json")
    if not file.exists() or not described.exists():
        return False
    held: list[dict[str, int]] = json.loads(described.read_text())["stacks"]
    return held == [asdict(s) for s in row.expected(row.sizes)]


def note(folder: Path, cell: str, said: str) -> None:
    """Keep how an export went."""
    index = folder / "INDEX.json"
    held = json.loads(index.read_text()) if index.exists() else {}
    partial = index.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(held | {cell: said}, indent=1, sort_keys=True))
    os.replace(partial, index)
    with (folder / "INDEX.txt").open("a") as lines:
        lines.write(f"{cell}: {said}\n")


def export(folder: Path, patterns: list[str]) -> None:
    """Every cell that matches and is not there yet; a failure is noted and tried again next time."""
    for row, column in cells(patterns):
        cell = f"{row.name}-{column.name}"
        if present(row, column, folder):
            continue
        try:
            build(row, column, folder)
            said = "ok"
        except Exception as reason:  # noqa: BLE001  exporters raise anything; the index tells
            said = f"failed export: {type(reason).__name__}: {' '.join(str(reason).split())[:300]}"
        print(cell, said, flush=True)
        note(folder, cell, said)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*")
    given = parser.parse_intermixed_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    export(given.folder, given.patterns)


if __name__ == "__main__":
    main()
