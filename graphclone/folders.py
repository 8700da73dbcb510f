"""Folders of a model, its configuration and its tokenizer, as Hugging Face's tools and onnxruntime-genai lay them out.

folder/model.onnx, folder/config.json                 Optimum
folder/onnx/model.onnx, folder/config.json, ...       sentence-transformers, transformers.js
folder/<decoder.filename>, folder/genai_config.json   onnxruntime-genai
"""

from __future__ import annotations

import json
from pathlib import Path

from graphclone.errors import BadModel

CONFIGURATIONS = ("config.json", "genai_config.json", "generation_config.json")
GENAI = "genai_config.json"
INSIDE = "onnx"  # where many repositories keep the model
USUAL = ("model.onnx", f"{INSIDE}/model.onnx")


def home(model: Path) -> Path:
    """The folder that a model's configuration lies in: its own, or the one above a folder ``onnx`` without any."""
    own = model.resolve().parent
    if own.name == INSIDE and not any((own / name).is_file() for name in CONFIGURATIONS):
        return model.parent.parent if model.parent.name == INSIDE else own.parent
    return model.parent


def beside(model: Path, name: str) -> Path:
    """The file of this name beside the model, else in its ``home``, whether it is there or not."""
    own = model.with_name(name)
    return own if own.is_file() else home(model) / name


def model_in(folder: Path) -> Path:
    """The one model of a folder. Raises BadModel where there is none, and where it takes a choice."""
    usual = [folder / name for name in (*_named(folder), *USUAL)]
    found = next((file for file in usual if file.is_file()), None)
    if found is not None:
        return found
    there = sorted(file for place in (folder, folder / INSIDE) for file in place.glob("*.onnx") if file.is_file())
    if len(there) == 1:
        return there[0]
    if not there:
        raise BadModel(f"{folder}: a folder without an ONNX file (looked for {', '.join(USUAL)} and *.onnx)")
    names = ", ".join(str(file.relative_to(folder)) for file in there[:6]) + (", ..." if len(there) > 6 else "")
    raise BadModel(f"{folder}: holds {len(there)} ONNX files ({names}) and none of them is {USUAL[0]}: name the file")


def _named(folder: Path) -> list[str]:
    """The files that genai_config.json names. Raises BadModel where they are parts of one model."""
    file = folder / GENAI
    if not file.is_file():
        return []
    try:
        held = json.loads(file.read_bytes())["model"]
        names = [part["filename"] for part in held.values() if isinstance(part, dict) and "filename" in part]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadModel(f"{file}: says no model.decoder.filename: not a configuration of onnxruntime-genai") from None
    if len(set(names)) > 1:
        raise BadModel(
            f"{file}: a model of {len(set(names))} files ({', '.join(map(str, names))}): name the one to cut"
        )
    if any(not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts for name in names):
        raise BadModel(f"{file}: its model.decoder.filename points outside the folder")
    return names
