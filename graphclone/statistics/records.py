"""Reads tables of records: parquet files (pyarrow) and Hugging Face datasets; neither package has to be installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graphclone.errors import BadData, one_line
from graphclone.requirements import FEATURES, MissingPackage

ROWS = 256  # records read at once
PREFIX = "datasets:"
SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # what save_to_disk leaves in a folder


def was_saved(spec: str) -> bool:
    """Whether a path is a folder that ``datasets`` wrote."""
    return any(all((Path(spec) / name).is_file() for name in names) for names in SAVED)


def dataset(spec: str, column: str) -> tuple[Any, str, list[Path | str]]:
    """The dataset that ``datasets:NAME_OR_FOLDER[:split[:column]]`` names, or a folder that it was saved to; its column
    (``column``, where the spec names none), and what its fingerprint is made of. Raises BadData, and MissingPackage
    where ``datasets`` is not installed.
    """
    _, name, split, named = [*spec.split(":"), "", ""][:4] if spec.startswith(PREFIX) else ("", spec, "", "")
    held = _opened(name, split or "train")
    column = named or column
    if column not in held.column_names:
        raise BadData(f"{spec}: no column {column!r}; it has {', '.join(held.column_names)}")
    written = [Path(file["filename"]) for file in held.cache_files]
    return held, column, [*written, f"{name} {split} {column} {len(held)}"]


def _opened(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingPackage(f"datasets:{name}: datasets is not installed: pip install datasets") from None
    try:
        held = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, split=split)
    except Exception as reason:  # noqa: BLE001  (it raises what its file systems raise)
        raise BadData(f"{name}: not a dataset that can be read ({one_line(reason, 200)})") from None
    if isinstance(held, datasets.DatasetDict):
        if split not in held:
            raise BadData(f"{name}: no split {split!r}; it has {', '.join(held)}")
        held = held[split]
    return held


def parquet_column(file: Path, column: str) -> tuple[str, Any]:
    """The type of a column's values, and pyarrow's metadata of the file. Raises BadData where it is not there."""
    opened = _parquet(file)
    schema, metadata = opened.schema_arrow, opened.metadata
    opened.close()
    if column not in schema.names:
        raise BadData(f"{file}: no column {column!r}; it has {', '.join(schema.names)}: name it with --column")
    kind = schema.field(column).type
    return str(getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind), metadata


def parquet_rows(file: Path, column: str) -> Iterator[tuple[str, object]]:
    """The values of a column, each with where it is."""
    opened = _parquet(file)
    try:
        rows = opened.iter_batches(batch_size=ROWS, columns=[column])
        number = 0
        while (batch := _or_corrupt(file, lambda: next(rows, None))) is not None:
            for value in _or_corrupt(file, batch.column(0).to_pylist):
                yield f"{file}: row {number}, column {column}", value
                number += 1
    finally:
        opened.close()


def _parquet(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise FEATURES["data"].missing(str(file)) from None
    return _or_corrupt(file, lambda: pyarrow.parquet.ParquetFile(file))


def _or_corrupt(file: Path, read: Callable[[], Any]) -> Any:
    """What pyarrow reads. Its errors are ValueErrors, OSErrors, or (what is not UTF-8) one of Python's own."""
    try:
        return read()
    except (OSError, ValueError, NotImplementedError) as reason:
        why = one_line(reason, 200)
        raise BadData(f"{file}: not a parquet file, or damaged ({why})") from None
