"""Writes a model as a folder of ``model.py`` and ``model.safetensors``, which need torch and safetensors alone."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphclone import outputs
from graphclone.errors import BadModel, InvalidTarget
from graphclone.graph import Model
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.source.placement import BYTES
from graphclone.pytorch.source.program import MODEL

SOURCE, TENSORS = "model.py", "model.safetensors"
LOADER = '''

def load(folder=Path(__file__).parent):
    """The model with its weights."""
    model = {model}()
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in load_file(Path(folder) / "{tensors}").items():
        places[name].data = tensor
    return model.eval()
'''


def write_standalone(model: Model, folder: str | Path, dropout: float = 0.0) -> dict[str, Any]:
    """Write the folder, whole or not at all, and say what is in it. Errors: in_torch.py."""
    folder = Path(folder)
    outputs.refuse_nowhere(folder)
    if folder.exists() and not folder.is_dir():
        raise BadModel(f"{folder}: is a file; give the name of a folder")
    module = to_torch(model, dropout)
    source = with_loader(module.code)  # type: ignore[arg-type]
    _refuse_edited(folder, source)
    tensors = {name: p.detach().contiguous() for name, p in module.named_parameters()}
    tensors |= {name: b.detach().contiguous() for name, b in module.named_buffers()}
    metadata = {SOURCE: _digest(source)}
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staged / SOURCE).write_text(source, encoding="utf-8")
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, staged / TENSORS, metadata)
        shutil.copymode(staged / SOURCE, staged / TENSORS)  # safetensors writes for its owner alone
        folder.mkdir(exist_ok=True)
        for file in (TENSORS, SOURCE):
            (staged / file).replace(folder / file)
    except OSError as reason:
        raise BadModel(f"{folder}: cannot be written ({reason.strerror or reason})") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    count = sum(torch.Size(weight.shape).numel() for weight in weights(module))
    integers = sum(b.numel() for b in module.buffers() if b.dtype in BYTES)
    return {"parameters": count, "integers": integers, "lines": source.count("\n"), "notes": weights(module).notes()}


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _refuse_edited(folder: Path, source: str) -> None:
    """A model.py is replaced only where it is what was written beside its weights. Raises InvalidTarget."""
    file = folder / SOURCE
    if not file.exists():
        return
    with suppress(OSError, SafetensorError, UnicodeDecodeError):
        found = file.read_text(encoding="utf-8")
        if found == source:
            return
        with safe_open(folder / TENSORS, "pt") as held:
            if (held.metadata() or {}).get(SOURCE) == _digest(found):
                return
    raise InvalidTarget(
        f"{file}: is not what graphclone wrote beside {TENSORS}, and may have been edited: write into another folder, "
        "or remove it first"
    )


def with_loader(source: str) -> str:
    """The program with a function that loads its weights."""
    head, _, body = source.partition("import torch\n")
    imports = f"{head}from pathlib import Path\n\n" if not head else f"{head.rstrip()}\nfrom pathlib import Path\n\n"
    lines = f"{imports}import torch\n{body}".replace(
        "from torch import nn\n", "from safetensors.torch import load_file\nfrom torch import nn\n", 1
    )
    return lines + LOADER.format(model=MODEL, tensors=TENSORS)
