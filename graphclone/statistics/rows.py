"""Reads rows of text files that hold records: JSON lines (gzipped, too), JSON lists, and tables with a head."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from graphclone.errors import BadData

MOST_DIGITS = 4000  # Python reads no whole number of many more, wherever it stands in a record
WIDEST = (1 << 31) - 1  # characters of a cell; csv's own limit is short of a book's chapter
GZIPPED = ".gz"
Row = tuple[str, Mapping[str, object]]  # where it is, as "line 3", and its fields


@dataclass(frozen=True)
class Format:
    """read: rows of a file. bytes: what a row takes in it, about."""

    read: Callable[[Path], Iterator[Row]]
    bytes: Callable[[Mapping[str, object]], int]


def rows(file: Path) -> Iterator[Row]:
    """The rows of a file of one of FORMATS. Raises BadData for what is not of that format."""
    return format_of(file).read(file)


def format_of(file: Path) -> Format:
    """By the end of its name; a file that somebody named is told by nothing else."""
    return FORMATS[next(suffix for suffix in FORMATS if file.name.lower().endswith(suffix))]


def whole_size(file: Path) -> int:
    """Bytes of what is in it, without compression (gzip notes it at the end, up to 4 GiB)."""
    size = file.stat().st_size
    if not file.name.lower().endswith(GZIPPED) or size < 4:
        return size
    with file.open("rb") as stream:
        stream.seek(-4, 2)
        return int.from_bytes(stream.read(4), "little")


@contextmanager
def opened(file: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """UTF-8 text; a byte order mark is none. newline: as for Python's open.

    Raises BadData for what cannot be read, also while it is.
    """
    try:
        if file.name.lower().endswith(GZIPPED):
            with gzip.open(file, "rt", encoding="utf-8-sig", newline=newline) as packed:
                yield packed
        else:
            with file.open(encoding="utf-8-sig", newline=newline) as stream:
                yield stream
    except UnicodeDecodeError as reason:
        raise BadData(f"{file}: not UTF-8 text (byte {reason.start})") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as reason:
        raise BadData(f"{file}: not a gzip file, or damaged ({reason})") from None
    except OSError as reason:
        raise BadData(f"{file}: cannot be read ({reason.strerror})") from None


def _json_lines(file: Path) -> Iterator[Row]:
    with opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"line {number}", _record(_parsed(line, f"{file}: line {number} is not JSON"), file, number)


def _json_list(file: Path) -> Iterator[Row]:
    with opened(file) as stream:
        held = _parsed(stream.read(), f"{file}: not JSON")
    if not isinstance(held, list):
        raise BadData(f"{file}: one {type(held).__name__}, not a list of records: give .jsonl, or a list")
    for number, one in enumerate(held, 1):
        yield f"record {number}", _record(one, file, number, "record")


def _record(held: object, file: Path, number: int, what: str = "line") -> Mapping[str, object]:
    if not isinstance(held, dict):
        raise BadData(f"{file}: {what} {number} is one {type(held).__name__}, it has no fields")
    return held


def _parsed(text: str, wrong: str) -> Any:
    try:
        return json.loads(text, parse_int=_whole)
    except (json.JSONDecodeError, RecursionError) as reason:
        raise BadData(f"{wrong} ({getattr(reason, 'msg', 'nested too deep')})") from None


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def _cells(between: str) -> Callable[[Path], Iterator[Row]]:
    """Rows under the names in the first one."""

    def read(file: Path) -> Iterator[Row]:
        csv.field_size_limit(WIDEST)
        with opened(file, newline="") as stream:
            table = csv.DictReader(stream, delimiter=between)
            try:
                for row in table:
                    yield f"line {table.line_num}", {name: cell for name, cell in row.items() if name is not None}
            except csv.Error as reason:
                raise BadData(f"{file}: line {table.line_num + 1} is no row of a table ({reason})") from None

    return read


def _as_json(row: Mapping[str, object]) -> int:
    return len(json.dumps(row, ensure_ascii=False).encode(errors="replace")) + 1


def _as_cells(row: Mapping[str, object]) -> int:
    return sum(len(str(cell).encode()) + 1 for cell in row.values())


FORMATS: Mapping[str, Format] = {  # by how the file's name ends
    ".jsonl": Format(_json_lines, _as_json),
    ".jsonl.gz": Format(_json_lines, _as_json),
    ".json": Format(_json_list, _as_json),
    ".csv": Format(_cells(","), _as_cells),
    ".tsv": Format(_cells("\t"), _as_cells),
}
