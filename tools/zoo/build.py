"""Export cells of the matrix; what exists stays.

Beside ROW-COLUMN.onnx lies ROW-COLUMN.json, the anatomy to be found.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from tools.zoo.columns import COLUMNS, HEADLINE, Column, transform
from tools.zoo.row import Row
from tools.zoo.rows import ROWS


def cells(patterns: list[str]) -> list[tuple[Row, Column]]:
    """The cells of the matrix that exist and match: those of the headline first, then column by column."""
    every = [(row, column) for column in COLUMNS.values() for row in ROWS.values() if column.applies(row)]
    found = [(r, c) for r, c in every if any(fnmatch(f"{r.name}-{c.name}", p) for p in patterns or ["*"])]
    return sorted(found, key=lambda cell: not headline(*cell))


def headline(row: Row, column: Column) -> bool:
    """Whether a cell is one of the 32 that are compared with other tools: 4 rows x 8 exports."""
    return COLUMNS["eager-dynamo"].applies(row) and column.name in HEADLINE


def file_of(row: Row, column: Column, folder: Path) -> Path:
    """Where the export of a cell lies."""
    return folder / f"{row.name}-{column.name}.onnx"


def build(row: Row, column: Column, folder: Path) -> Path:
    """Export one cell, from its source column's file where it is made of one; raises whatever the exporter raises."""
    file = file_of(row, column, folder)
    partial = folder / f"{file.name}.{os.getpid()}"
    try:
        if column.build is not None:
            column.build(row, row.sizes, partial)
        else:
            source = COLUMNS[column.source]
            if not present(row, source, folder):
                build(row, source, folder)
            transform(column, row, file_of(row, source, folder), partial)
        expected = {"row": row.name, "column": column.name, "stacks": [asdict(s) for s in row.expected(row.sizes)]}
        file.with_suffix(".json").write_text(json.dumps(expected, indent=1))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def present(row: Row, column: Column, folder: Path) -> bool:
    """Whether a cell's export is there, and of the sizes that the row has now."""
    file = file_of(row, column, folder)
    described = file.with_suffix(".json")
    if not file.exists() or not described.exists():
        return False
    held: list[dict[str, int]] = json.loads(described.read_text())["stacks"]
    return held == [asdict(s) for s in row.expected(row.sizes)]
