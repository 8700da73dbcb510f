"""Reads text from files, records (rows.py, .parquet, Hugging Face datasets) and Python's own documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from graphclone.errors import BadData
from graphclone.statistics import records, rows
from graphclone.statistics.packing import Texts, pack
from graphclone.statistics.reading import Asked, Reading, files_of

SUFFIXES = (".txt", ".md", ".rst")
COLUMN = "text"  # of records, unless another is asked for
CHUNK = 1 << 16  # characters encoded at once, so that a file of any size streams
SAMPLE = 64  # records from which sizes are guessed
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


def rows_of(*suffixes: str) -> Callable[[str, str | None], Texts]:
    """Records in files of these formats of rows.py; their field ``text``, or the one asked for."""

    def read(spec: str, column: str | None = None) -> Texts:
        files = files_of(spec, suffixes)
        wanted = column or COLUMN
        size = sum(map(rows.whole_size, files)) * _share(files[0], wanted)

        def pieces() -> Iterator[str]:
            return (piece for file in files for piece in _fields(file, wanted))

        return Texts(spec, pieces, [*files, wanted], round(size))

    return read


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


def _pieces(file: Path) -> Iterator[str]:
    """Whole lines, about CHUNK characters at a time."""
    held: list[str] = []
    size = 0
    with rows.opened(file) as stream:
        for line in stream:
            held.append(line)
            size += len(line)
            if size >= CHUNK:
                yield "".join(held)
                held, size = [], 0
    if held:
        yield "".join(held)


def _fields(file: Path, column: str) -> Iterator[str]:
    for place, record in rows.rows(file):
        if column not in record:
            raise BadData(f"{file}: {place} has no field {column}; it has {', '.join(record)}: name one with --column")
        yield _text(record[column], f"{file}: {place}, field {column}")


def _share(file: Path, column: str) -> float:
    """How much of the first rows of a file is the text in them."""
    size = rows.format_of(file).bytes
    read = sum(size(record) for _, record in islice(rows.rows(file), SAMPLE))
    return sum(len(piece.encode()) for piece in islice(_fields(file, column), SAMPLE)) / max(read, 1)
