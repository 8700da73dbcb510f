"""The second half of the story: the clone in PyTorch, trained there or elsewhere, and back in its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.errors import BadData, one_line

if TYPE_CHECKING:
    import numpy as np
    import torch

    from graphclone.graph import Model
    from graphclone.pytorch.training import History, TrainingOptions

    Batch = Mapping[str, np.ndarray[Any, Any]]


def to_torch(model: Model, dropout: float = 0.0) -> torch.nn.Module:
    """The graph as a module: every weight a Parameter, ties stay ties, dropout put back where it is asked for."""
    from graphclone.pytorch.module import to_torch as build

    return build(model, dropout)


def write_torch(model: Model, folder: str | Path, dropout: float = 0.0) -> dict[str, Any]:
    """The graph as a folder of model.py and model.safetensors that needs no graphclone."""
    from graphclone.pytorch.standalone import write_standalone

    return write_standalone(model, folder, dropout)


def write_hugging_face(model: Model, like: str | Path, folder: str | Path) -> dict[str, Any]:
    """The graph as a checkpoint of its family: config.json, model.safetensors, the tokenizer of ``like``."""
    from graphclone.pytorch.hugging_face import write_hugging_face as write

    return write(model, like, folder)


def from_torch(model: Model, module: torch.nn.Module) -> Model:
    """The module's weights in the model's graph: the exact inverse of ``to_torch``."""
    from graphclone.pytorch.write_back import from_torch as write
    from graphclone.pytorch.write_back import marked

    return marked(model, write(model, module))


def pack(model: Model, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Model:
    """Weights trained elsewhere, by initializer name, in the model's graph."""
    from graphclone.pytorch.write_back import marked
    from graphclone.pytorch.write_back import pack as write

    return marked(model, write(model, tensors))


def train(
    model: Model,
    batches: Iterable[Batch],
    options: TrainingOptions,
    *,
    held_out: Iterable[Batch] | None = None,
    teacher: Model | None = None,
    tokenizer: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Model, History]:
    """Train a clone in PyTorch and write it back; ``held_out`` is evaluated before, on the way, and after.

    teacher: a model whose outputs are imitated. tokenizer: the tokenizer.json that masked-lm takes its mask from.
    Raises BadData for batches or outputs that the task's loss cannot be made from, InvalidTarget for a teacher that
    does not fit, TrainingDiverged for a loss that is not a number.
    """
    from graphclone.pytorch.training import course

    beside = course.Beside(teacher=teacher, tokenizer=tokenizer)
    trained = course.run(model, batches, options, beside, held_out=held_out, progress=progress)
    return trained.model, trained.history


def reinitialised(model: Model, seed: int) -> Model:
    """The same graph with weights drawn at random, as its architecture is started from nothing."""
    from graphclone.pytorch.training import reinitialised as drawn
    from graphclone.pytorch.write_back import marked

    return marked(model, drawn(model, seed))


def read_tensors(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a safetensors file by name. Raises BadData."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as reason:
        raise BadData(f"{path}: not a readable safetensors file ({one_line(reason)})") from None
