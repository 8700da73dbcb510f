"""Outputs appear whole or not at all, and never in place of an input."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphclone.errors import BadModel, InvalidTarget


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A path in a temporary folder beside ``path``; what is written there moves into place when the block ends well."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BadModel(f"{path.parent}: no such folder to write {path.name} into")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as reason:
        raise BadModel(f"{path}: cannot be written ({reason.strerror})") from None
    try:
        yield folder / path.name
        others = sorted(file for file in folder.iterdir() if file.name != path.name)
        for file in (*others, folder / path.name):  # the file that names the others comes last
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_same_file(output: str | Path, *inputs: str | Path | None) -> None:
    """An output never takes the place of its own input. Raises InvalidTarget."""
    for given in inputs:
        if given is not None and os.path.realpath(output) == os.path.realpath(given):
            raise InvalidTarget(f"{output}: is also an input; write to another path")
