"""A recipe's PyTorch parent as a folder that transformers loads: what other tools' exporters start from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from graphclone.errors import InvalidTarget
from models.building import parent, recipe
from models.recipe import Options, Shape

TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def checkpoint(name: str, folder: str | Path, *, seed: int = 0, **sizes: int | None) -> Path:
    """Write config.json, model.safetensors and the tokenizer into a new folder, whole or not at all.

    Raises InvalidTarget where the folder is there already, or the recipe is an ONNX file as it ships.
    """
    folder = Path(folder)
    if folder.exists():
        raise InvalidTarget(f"{folder}: is there already: name a new folder")
    made = parent(name, Options(seed=seed, shape=recipe(name).shape.override(name, Shape(**sizes))))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if made.folder is not None:
        shutil.copytree(made.folder, partial)
    else:
        _save(made.module, made.tokenizer, partial)
    return partial.rename(folder)


def _save(module: Any, tokenizer: Path | str | None, folder: Path) -> None:
    module.config.use_cache = True  # recipes export without one
    module.save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if (theta := (config.get("rope_parameters") or {}).get("rope_theta")) is not None:
        config["rope_theta"] = theta  # where transformers 4 reads it
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer is None:
        return
    text = tokenizer.read_text(encoding="utf-8") if isinstance(tokenizer, Path) else tokenizer
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    names = {entry["id"]: entry["content"] for entry in json.loads(text).get("added_tokens") or ()}
    special = {key: names[number] for key in TOKENS if (number := config.get(f"{key}_id")) in names}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
