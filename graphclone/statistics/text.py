"""Reads text from files, records (.jsonl, .parquet, Hugging Face datasets) and Python's own documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from graphclone.errors import BadData
from graphclone.statistics import records
from graphclone.statistics.packing import Texts, pack
from graphclone.statistics.reading import Asked, Reading, files_of

SUFFIXES = (".txt", ".md", ".rst")
COLUMN = "text"  # of records, unless another is asked for
CHUNK = 1 << 16  # characters encoded at once, so that a file of any size streams
SAMPLE = 64  # records from which sizes are guessed
MOST_DIGITS = 4000  # Python reads no whole number of many more, wherever it stands in a record
_HALF = re.compile("[\ud800-\udfff]")  # one half of a surrogate pair, which JSON may spell and no encoding has


def packed(texts: Callable[[str, str | None], Texts]) -> Callable[[str, Asked], Reading]:
    """What reads batches of some kind of texts."""
    return lambda spec, asked: pack(texts(spec, asked.column), asked)


def plain(spec: str, column: str | None = None) -> Texts:
    """A text file, or the text files of a folder in order of name. UTF-8. There are no columns."""
    files = files_of(spec, SUFFIXES)
    return Texts(spec, lambda: (piece for file in files for piece in _pieces(file)), files, _bytes(files))


def docs(spec: str, column: str | None = None) -> Texts:
    """Python's own language reference, about 0.7 MB of English text that every Python brings (pydoc_data.topics)."""
    from pydoc_data.topics import topics

    pieces = [topics[name] for name in sorted(topics)]
    return Texts(spec, lambda: iter(pieces), ["\0".join(pieces)], sum(map(len, pieces)))


def jsonl(spec: str, column: str | None = None) -> Texts:
    """One JSON object a line; its field ``text``, or the one asked for."""
    files = files_of(spec, (".jsonl",))
    column = column or COLUMN

    def pieces() -> Iterator[str]:
        return (piece for file in files for piece in _records(file, column))

    return Texts(spec, pieces, [*files, column], round(_bytes(files) * _share(files[0], column)))


def parquet(spec: str, column: str | None = None) -> Texts:
    """Parquet files (pyarrow); their column ``text``, or the one asked for."""
    files = files_of(spec, (".parquet",))
    column = column or COLUMN
    size = sum(_parquet_size(file, column) for file in files)

    def pieces() -> Iterator[str]:
        return (_text(value, where) for file in files for where, value in records.parquet_rows(file, column))

    return Texts(spec, pieces, [*files, column], size)


def dataset(spec: str, column: str | None = None) -> Texts:
    """``datasets:NAME_OR_FOLDER[:split[:column]]``: what save_to_disk wrote, or a name that load_dataset knows."""
    held, column, read = records.dataset(spec, column or COLUMN)

    def pieces() -> Iterator[str]:
        for number, row in enumerate(held.select_columns([column])):
            yield _text(row[column], f"{spec}: row {number}, column {column}")

    shown = [len(_text(row[column], f"{spec}: a row").encode()) for row in held.select(range(min(len(held), SAMPLE)))]
    size = len(held) * sum(shown) // max(len(shown), 1)
    return Texts(spec, pieces, read, size)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise BadData(f"{where} holds {type(value).__name__}, not text: name the field with --column")
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", value)


def _bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _parquet_size(file: Path, column: str) -> int:
    """Bytes of a column, about. Raises BadData where it is not there or holds no text."""
    kind, metadata = records.parquet_column(file, column)
    if kind not in ("string", "large_string", "string_view"):
        raise BadData(f"{file}: column {column} holds {kind}, not text")
    sizes = 0
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(k) for k in range(metadata.num_columns)]
        sizes += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    return sizes


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as stream:  # a byte order mark is no text
            yield from stream
    except UnicodeDecodeError as reason:
        raise BadData(f"{file}: not UTF-8 text (byte {reason.start})") from None
    except OSError as reason:
        raise BadData(f"{file}: cannot be read ({reason.strerror})") from None


def _pieces(file: Path) -> Iterator[str]:
    """Whole lines, about CHUNK characters at a time."""
    held: list[str] = []
    size = 0
    for line in _lines(file):
        held.append(line)
        size += len(line)
        if size >= CHUNK:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _records(file: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=_whole)
        except (json.JSONDecodeError, RecursionError) as reason:
            raise BadData(f"{file}: line {number} is not JSON ({getattr(reason, 'msg', 'nested too deep')})") from None
        if not isinstance(record, dict) or column not in record:
            has = f"; it has {', '.join(record)}" if isinstance(record, dict) else ""
            raise BadData(f"{file}: line {number} has no field {column}{has}")
        yield _text(record[column], f"{file}: line {number}, field {column}")


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def _share(file: Path, column: str) -> float:
    """How much of the first lines of a .jsonl file is the text in them."""
    read = sum(len(line.encode()) for line in islice(_lines(file), SAMPLE))
    return sum(len(piece.encode()) for piece in islice(_records(file, column), SAMPLE)) / max(read, 1)
