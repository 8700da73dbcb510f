"""Recipe + options -> ONNX file, with the tokenizer beside it where there is one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from graphclone.errors import InvalidTarget
from models.export import EXPORT, quiet
from models.packages import require, version
from models.recipe import ATTENTIONS, Attention, Exporter, Options, Parent, Recipe, Shape
from models.table import TABLE

Progress = Callable[[str], None]
CACHE_FORMAT = 1  # raise when a recipe changes what it builds from the same options


def _silent(message: str) -> None:
    """The progress of a caller who wants none."""


def recipe(name: str) -> Recipe:
    """The recipe of that name; InvalidTarget, listing what there is, where there is none."""
    if name not in TABLE:
        raise InvalidTarget(f"no recipe named {name!r}; there are {', '.join(TABLE)}")
    return TABLE[name]


def options(
    name: str,
    *,
    exporter: Exporter | None = None,
    attention: Attention = "sdpa",
    seed: int = 0,
    **sizes: int | None,
) -> Options:
    """Checked options of a recipe, its own sizes filled in where none is given.

    ``sizes`` are hidden, heads, kv_heads, head_dim, ffn, layers. Raises InvalidTarget for what the recipe cannot do.
    """
    row = recipe(name)
    chosen = exporter or row.exporters[0]
    if chosen not in row.exporters:
        raise InvalidTarget(f"recipe {name} cannot be exported by {chosen}; it has {', '.join(row.exporters)}")
    if attention not in ATTENTIONS:
        raise InvalidTarget(f"no attention named {attention!r}; there are {', '.join(ATTENTIONS)}")
    return Options(chosen, attention, seed, row.shape.override(name, Shape(**sizes)))


def parent(name: str, wanted: Options | None = None) -> Parent:
    """The PyTorch parent of a recipe, in evaluation mode.

    Raises InvalidTarget for a recipe that has none, MissingPackage for a package that is not installed.
    """
    row = recipe(name)
    if row.load is None:
        raise InvalidTarget(f"recipe {name} is an ONNX file as it ships: there is no PyTorch module behind it")
    require(name, row.packages)
    with quiet():
        return row.load(wanted or options(name))


def build(
    name: str,
    output: str | Path,
    *,
    exporter: Exporter | None = None,
    attention: Attention = "sdpa",
    seed: int = 0,
    progress: Progress = _silent,
    **sizes: int | None,
) -> Path:
    """Write the ONNX file of a recipe, and ``<stem>.tokenizer.json`` beside it where the parent has a tokenizer.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     build("gpt2", f"{folder}/small.onnx", exporter="torchscript", hidden=24, heads=2).name
    'small.onnx'
    """
    row, output = recipe(name), Path(output)
    wanted = options(name, exporter=exporter, attention=attention, seed=seed, **sizes)
    require(name, row.packages)
    if not output.parent.is_dir():
        raise InvalidTarget(f"{output}: the folder {output.parent} does not exist; make it first")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem}-") as folder:
        partial = Path(folder) / output.name
        tokenizer = _write(row, wanted, partial, progress)
        if tokenizer is not None:
            _place(tokenizer, tokenizer_beside(output))
        os.replace(partial, output)
    return output


def tokenizer_beside(file: Path) -> Path:
    """Where the tokenizer of a built model lies."""
    return file.with_suffix(".tokenizer.json")


def _write(row: Recipe, wanted: Options, partial: Path, progress: Progress) -> Path | None:
    """Export (or copy) to ``partial``; the path of a tokenizer written or found on the way."""
    if row.ready is not None:
        source = row.ready()
        progress(f"{row.name}: copying {source.name}")
        shutil.copyfile(source, partial)
        return None
    progress(f"{row.name}: loading")
    loaded = parent(row.name, wanted)
    count = sum(p.numel() for p in loaded.module.parameters())
    progress(f"{row.name}: exporting {count / 1e6:.1f}M parameters by {wanted.exporter}")
    with quiet():
        EXPORT[wanted.exporter](loaded, partial)
    if isinstance(loaded.tokenizer, str):
        written = partial.with_suffix(".tokenizer.json")
        written.write_text(loaded.tokenizer, encoding="utf-8")
        return written
    return loaded.tokenizer


def _place(source: Path, target: Path) -> None:
    """Copy to a name beside the target, then rename."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/graphclone/models, or ~/.cache/graphclone/models."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "graphclone" / "models"


def cached(
    name: str,
    *,
    exporter: Exporter | None = None,
    attention: Attention = "sdpa",
    seed: int = 0,
    progress: Progress = _silent,
    **sizes: int | None,
) -> Path:
    """The same file as ``build`` writes, kept between runs under a key of recipe, options and package versions."""
    row = recipe(name)
    wanted = options(name, exporter=exporter, attention=attention, seed=seed, **sizes)
    versions = {package: version(package) for package in row.packages}
    key = json.dumps([CACHE_FORMAT, name, asdict(wanted), versions], sort_keys=True)
    folder = cache_folder() / f"{name}-{wanted.exporter}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    file = folder / f"{name}.onnx"
    if not file.is_file():  # written last, so its presence means that all of it is there
        folder.mkdir(parents=True, exist_ok=True)
        build(name, file, exporter=exporter, attention=attention, seed=seed, progress=progress, **sizes)
    return file
