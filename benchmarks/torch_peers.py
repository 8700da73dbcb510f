"""onnx2torch and onnx2pytorch, for benchmarks/torch.py and torch_forward.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from models.export import quiet

Peer = tuple[nn.Module, Callable[..., Any]]


def peers(
    file: Path, inputs: dict[str, torch.Tensor], wanted: torch.Tensor
) -> dict[str, tuple[nn.Module, Callable[..., Any]] | str]:
    """onnx2torch and onnx2pytorch; why not, where they are missing, fail or compute something else."""
    found: dict[str, Peer | str] = {}
    for name, convert in CONVERTERS.items():
        try:
            with quiet():
                module = convert(file)
                names = [i.name for i in onnx.load(str(file), load_external_data=False).graph.input]
                answer = called(module, names)
                with torch.no_grad():
                    difference = float((answer(**inputs) - wanted).abs().max())
        except Exception as reason:  # noqa: BLE001  whatever a peer raises is its answer
            found[name] = f"{type(reason).__name__}: {str(reason).splitlines()[0][:60] if str(reason) else ''}"
            continue
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        found[name] = (module, answer) if difference < 1e-3 and trained else f"differs by {difference:.1e}"
    return found


def _onnx2torch(file: Path) -> nn.Module:
    module: nn.Module = importlib.import_module("onnx2torch").convert(str(file))
    return module


def _onnx2pytorch(file: Path) -> nn.Module:
    module: nn.Module = importlib.import_module("onnx2pytorch").ConvertModel(onnx.load(str(file)), experimental=True)
    return module


CONVERTERS: dict[str, Callable[[Path], nn.Module]] = {"onnx2torch": _onnx2torch, "onnx2pytorch": _onnx2pytorch}


def called(module: nn.Module, names: list[str]) -> Callable[..., Any]:
    """The module fed by name: theirs take the graph's inputs in order."""

    def call(**inputs: torch.Tensor) -> Any:
        answer = module(*(inputs[name] for name in names))
        return answer[0] if isinstance(answer, (tuple, list)) else answer

    return call
