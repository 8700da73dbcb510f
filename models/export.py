"""PyTorch parent -> ONNX file, by either of PyTorch's exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.errors import GraphCloneError
from models.recipe import Exporter, Parent

if TYPE_CHECKING:
    from torch import nn

TORCHSCRIPT_OPSET = 17  # the newest that this exporter writes well
DYNAMO_OPSET = 18  # the exporter's own; later ones are converted from it
NOISY_LOGGERS = ("torch.onnx", "torch.export", "torch.jit", "onnxscript", "onnx_ir", "transformers")


def positional(parent: Parent) -> nn.Module:
    """The parent as a module from tensors to a tuple of tensors, which both exporters take.

    transformers answers with dataclasses and takes keywords; its own ``return_dict=False`` and positional calls break
    inside its decorators.
    """
    from torch import Tensor, nn

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = parent.module

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            answer = self.model(**dict(zip(parent.inputs, tensors, strict=True)))
            return tuple(answer[name] for name in parent.outputs)

    return Positional().eval()


def dynamo(parent: Parent, file: Path) -> None:
    """torch.export, then the ONNX decompositions of torch.onnx."""
    import torch

    symbols = {symbol: torch.export.Dim(symbol) for axes in parent.axes.values() for symbol in axes.values()}
    dynamic = tuple({axis: symbols[s] for axis, s in parent.axes[name].items()} for name in parent.inputs)
    program = torch.onnx.export(
        positional(parent),
        tuple(parent.inputs.values()),
        input_names=list(parent.inputs),
        output_names=list(parent.outputs),
        dynamic_shapes=(dynamic,),  # one entry: the variadic argument
        opset_version=DYNAMO_OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise GraphCloneError("torch.onnx.export gave no program; see its messages")
    program.save(file, external_data=False)


def torchscript(parent: Parent, file: Path) -> None:
    """Tracing, the exporter of PyTorch 1 and still the most common in the wild."""
    import torch

    torch.onnx.export(
        positional(parent),
        tuple(parent.inputs.values()),
        str(file),
        input_names=list(parent.inputs),
        output_names=list(parent.outputs),
        dynamic_axes={name: dict(axes) for name, axes in parent.axes.items()},
        opset_version=TORCHSCRIPT_OPSET,
        dynamo=False,
    )


EXPORT: dict[Exporter, Callable[[Parent, Path], None]] = {"dynamo": dynamo, "torchscript": torchscript}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what loaders and exporters print, log and warn; an exception still tells its own story."""
    loggers: list[tuple[logging.Logger, int]] = [(log := logging.getLogger(n), log.level) for n in NOISY_LOGGERS]
    hidden: Any = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
        warnings.simplefilter("ignore")
        for log, _ in loggers:
            log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for log, level in loggers:
                log.setLevel(level)
