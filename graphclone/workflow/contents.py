"""What files hold, as digests: read once, and again only when size, time or inode say that something changed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphclone import folders
from graphclone.statistics.callables import NAMED
from graphclone.workflow.record import Seen

READ = 1 << 22
# read without being named, beside a model; genai_config.json, as config.json, tells numbers of tokens
BESIDE = ("tokenizer.json", "preprocessor_config.json", *folders.CONFIGURATIONS)
DATASET = "datasets:"


def digest_of(held: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(held, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class Contents:
    """Digests by path. ``seen`` is what is kept between runs."""

    seen: dict[str, Seen]

    def of(self, path: Path) -> str:
        """Of a file, a model with its external data, or a folder. Raises OSError, BadModel."""
        if path.is_dir():
            parts = [(str(file.relative_to(path)), self.of(file)) for file in _files(path)]
            return digest_of(parts)
        key = str(path.resolve())
        known = self.seen.get(key)
        if known is not None and self._same(path, known):
            return known.sha256
        made = self._model(path) if path.suffix == ".onnx" else _read(path)
        self.seen[key] = made
        return made.sha256

    def _model(self, path: Path) -> Seen:
        from graphclone import graph

        model = graph.load(path)
        for part in model.external_files:
            self.seen[str(part.resolve())] = Seen(*_identity(part), "")  # read with the model, never alone
        identity = _identity(path)
        return Seen(*identity, model.sha256, tuple(str(part.resolve()) for part in model.external_files))

    def _same(self, path: Path, known: Seen) -> bool:
        if _identity(path) != (known.size, known.modified, known.inode):
            return False
        parts = [(Path(part), self.seen.get(part)) for part in known.parts]
        return all(held is not None and part.is_file() and self._same(part, held) for part, held in parts)

    def of_data(self, spec: str) -> str:
        """Of what a recipe names as data: files and data sets in a folder by what they hold, functions by their
        source, others by their name."""
        if Path(spec).exists():
            return self.of(Path(spec))
        found = NAMED.fullmatch(spec)
        source = Path(found["file"]) if found and found["file"] else _source(found["module"]) if found else None
        if source is not None and source.is_file():
            return digest_of([spec, self.of(source)])
        folder = Path(spec.removeprefix(DATASET).partition(":")[0]) if spec.startswith(DATASET) else None
        if folder is not None and folder.is_dir():  # what save_to_disk wrote
            return digest_of([spec, self.of(folder)])
        return digest_of([spec, sys.version if spec == "python-docs" else ""])

    def named(self, files: Iterable[Path], folder: Path) -> dict[str, str]:
        """Of files that may be there, by their names inside a folder."""
        return {file.relative_to(folder).as_posix(): self.of(file) for file in files if file.is_file()}

    def beside(self, model: Path) -> dict[str, str]:
        """Of the files beside a model that are read without being named."""
        named = (*(folders.beside(model, name) for name in BESIDE), model.with_suffix(".tokenizer.json"))
        return {file.name: self.of(file) for file in named if file.is_file()}


def _source(module: str) -> Path | None:
    """Where a module's code lies; nothing of it is run, packages around it apart."""
    here = str(Path.cwd())
    try:
        sys.path.insert(0, here)
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    finally:
        sys.path.remove(here)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _read(path: Path) -> Seen:
    identity = _identity(path)  # before it is read: what changes meanwhile is read again next time
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(READ):
            digest.update(piece)
    return Seen(*identity, digest.hexdigest())


def _identity(path: Path) -> tuple[int, int, int]:
    held = path.stat()
    return held.st_size, held.st_mtime_ns, held.st_ino
