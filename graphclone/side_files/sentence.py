"""sentence-transformers: what modules.json puts behind the model takes as many features as the clone gives.

Pooling says how many; a Dense or LayerNorm has weights for each, of which the kept ones stay, in the clone's order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graphclone.errors import BadData, one_line
from graphclone.outputs import staged

LIST = "modules.json"
CONFIG, TENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class Kind:
    """keys: that state the features it takes. axes: of its tensors, which of their axes counts them. ends: it gives out
    features of its own."""

    keys: tuple[str, ...] = ()
    axes: Mapping[str, int] = field(default_factory=dict)
    ends: bool = False


KINDS: Mapping[str, Kind] = {  # by the class that modules.json names
    "Pooling": Kind(("word_embedding_dimension", "embedding_dimension")),
    "Normalize": Kind(),
    "Dropout": Kind(),
    "LayerNorm": Kind(("dimension",), {"norm.weight": 0, "norm.bias": 0}),
    "Dense": Kind(("in_features",), {"linear.weight": 1}, ends=True),
}


@dataclass
class Features:
    """Fed to a module: which of the parent's ``count`` features are left; None: all, or not known."""

    kept: np.ndarray[Any, Any] | None
    count: int


def write(folder: Path, to: Path, kept: Sequence[int] | None, hidden: int) -> tuple[list[Path], list[str]]:
    """Write the modules behind the model into ``to``; the files, and a line for each that is not up to date.

    kept: the channels of the parent's ``hidden`` that the clone has, None for all.
    Raises BadData for a modules.json that is not a list of modules in folders inside.
    """
    written, warnings = [], list[str]()
    features = Features(None if kept is None else np.asarray(kept), hidden)
    for path, name in _modules(folder):
        if not (folder / path).is_dir():
            continue  # nothing is stored for it: Normalize
        kind = KINDS.get(name)
        if kind is None:
            warnings.append(f"{path}: a {name}, of whose sizes nothing is known: copied as it is")
            written += _copied(folder / path, to / path, ())
            features.kept = None
            continue
        written += _module(folder / path, to / path, kind, features, warnings)
        if kind.ends:
            features.kept = None
    return written, warnings


def folders(folder: Path) -> list[Path]:
    """Those of the modules behind the model that have one. Raises BadData as ``write``."""
    return [folder / path for path, _ in _modules(folder) if (folder / path).is_dir()]


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """(folder, class) of each module behind the model, whose own files lie at the top."""
    file = folder / LIST
    try:
        held = json.loads(file.read_bytes())
        found = [(str(entry["path"]), str(entry["type"]).rpartition(".")[2]) for entry in held]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise BadData(f"{file}: not sentence-transformers' list of modules ({one_line(reason)})") from None
    for path, name in found:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise BadData(f"{file}: the module {name} lies outside the folder ({path!r})")
        if path and name != "Transformer":
            yield path, name


def _module(source: Path, to: Path, kind: Kind, features: Features, warnings: list[str]) -> list[Path]:
    """One module's folder. What it is fed after it is left in ``features``."""
    config = _config(source / CONFIG)
    wanted = None if features.kept is None else len(features.kept)
    stated = [key for key in kind.keys if key in config]
    if any(config[key] != features.count for key in stated) and wanted is not None:
        said = f"takes {config[stated[0]]} features, the parent gives {features.count}"
        warnings.append(f"{source.name}: {said}: copied as it is")
        wanted = features.kept = None
    if wanted is None:
        return _copied(source, to, ())
    written = _copied(source, to, (CONFIG, TENSORS, PICKLE) if kind.axes else (CONFIG,))
    if config:
        with staged(_folder(to) / CONFIG) as draft:
            draft.write_text(json.dumps({**config, **dict.fromkeys(stated, wanted)}, indent=2) + "\n", encoding="utf-8")
        written.append(to / CONFIG)
    if kind.axes:
        written += _cut(source, to, kind, features.kept, warnings)
    _pool(config, features)
    return written


def _pool(config: Mapping[str, Any], features: Features) -> None:
    """Pooling in several ways puts what each gives one behind the other."""
    mode = config.get("pooling_mode")
    flags = sum(value is True for key, value in config.items() if key.startswith("pooling_mode_"))
    ways = len(mode) if isinstance(mode, list) else max(flags, 1)
    if features.kept is not None and ways > 1:
        starts = np.arange(ways)[:, None] * features.count
        features.kept = (starts + features.kept[None, :]).ravel()
    features.count *= ways


def _cut(source: Path, to: Path, kind: Kind, kept: Any, warnings: list[str]) -> list[Path]:
    """The module's tensors, of the kept features alone."""
    try:
        tensors = load_file(source / TENSORS)
        made = {n: np.take(t, kept, kind.axes[n]) if n in kind.axes else t for n, t in tensors.items()}
    except (OSError, SafetensorError, KeyError, TypeError, IndexError) as reason:
        why = f"its weights are a pickle ({PICKLE})" if (source / PICKLE).is_file() else one_line(reason)
        warnings.append(
            f"{source.name}: not cut to the features that are left: {why}: save the parent's folder anew with "
            f"sentence-transformers, which writes {TENSORS}"
        )
        return []
    with staged(to / TENSORS) as draft:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in made.items()}, draft)
    return [to / TENSORS]


def _config(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError) as reason:
        raise BadData(f"{file}: not a configuration in JSON ({one_line(reason, 200)})") from None
    return held if isinstance(held, dict) else {}


def _copied(source: Path, to: Path, but: Sequence[str]) -> list[Path]:
    files = [file for file in sorted(source.iterdir()) if file.is_file() and file.name not in but]
    for file in files:
        with staged(_folder(to) / file.name) as draft:
            shutil.copyfile(file, draft)
    return [to / file.name for file in files]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
