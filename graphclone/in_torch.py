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
    """The graph as a PyTorch module: every weight a Parameter, ties stay ties.

    ``module(**inputs)`` takes the graph's inputs by name, as tensors of the shapes and types that the graph declares,
    and returns a dict of its outputs by name. Batch and length stay as dynamic as they were in the graph. Blocks are
    submodules of an nn.ModuleList; a linear's weight is [out, in], as in torch.nn; ``module.code`` is the source.

    ``dropout``: a probability, put where such models are trained with it: on attention's probabilities, behind
    attention and feed-forward before they are added to the residual stream, and on the embeddings. Raises
    UnsupportedGraph, before anything is built, for an operator that graphclone has no row for in PyTorch.

    >>> module = to_torch(graphclone.load("model.onnx")); print(module.code)   # doctest: +SKIP
    """
    from graphclone.pytorch.module import to_torch as build

    return build(model, dropout)


def write_torch(model: Model, folder: str | Path, dropout: float = 0.0) -> dict[str, Any]:
    """Write the graph as a folder of model.py and model.safetensors that runs without graphclone, whole or not at all.

    ``model.py`` defines the module that ``to_torch`` builds, and ``load()``. Weights trained there and saved under the
    module's names go back into the graph by ``pack``. Gives the counts of ``parameters``, ``integers`` (weights of
    integers) and ``lines`` of the source, and ``notes`` on what does not train. Raises InvalidTarget for a folder
    whose ``model.py`` is not what was written there, BadModel where it cannot be written, and what ``to_torch`` raises.
    """
    from graphclone.pytorch.standalone import write_standalone

    return write_standalone(model, folder, dropout)


def write_hugging_face(model: Model, like: str | Path, folder: str | Path) -> dict[str, Any]:
    """Write the graph as a checkpoint that Transformers loads: config.json, model.safetensors and the tokenizer.

    ``like``: the folder of the parent's config.json, from which the family is known and what is not a size is taken.
    Gives the ``family``, the ``architecture``, the number of ``tensors``, the ``files`` copied, and the largest
    relative ``difference`` of what Transformers and ONNX Runtime answer on a tiny batch (None: ``not_compared`` says
    why). Raises VerificationFailed, leaving nothing behind, where they differ by more than rounding, BadData for a
    config that cannot be read, UnsupportedGraph for a family without a row in pytorch/families.py and for a weight that
    it has no name for, InvalidTarget for a shape that its config cannot say, BadModel where nothing can be written.
    """
    from graphclone.pytorch.hugging_face import write_hugging_face as write

    return write(model, like, folder)


def from_torch(model: Model, module: torch.nn.Module) -> Model:
    """The model with the module's weights: the exact inverse of ``to_torch(model)``.

    What was not trained comes back byte for byte, and ``model`` is not changed. The module may be wrapped by
    torch.compile, DistributedDataParallel or checkpointing. Raises BadData, naming the weights, where they are not
    those of this model, hold values that are not finite, or differ where the model has one tied weight.
    """
    from graphclone.pytorch.write_back import from_torch as write
    from graphclone.pytorch.write_back import marked

    return marked(model, write(model, module))


def pack(model: Model, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Model:
    """The model with other weights, by the module's parameter names or the graph's initializer names.

    Arrays are floats, shaped as whoever has the name holds them: a linear is [out, in] under its parameter's name, as
    the graph stores it under the initializer's. They are converted to the graph's own type. Every weight must be given:
    once, under any of its names, or more than once where it is tied, and then equal. Raises BadData for names that are
    missing or unknown, shapes that differ, values that are not finite and ties that disagree. ``model`` is not changed.
    """
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
    """Train a clone in PyTorch and write it back: the trained model, and its losses (``History``).

    batches: mappings from input names to arrays [batch, ...], gone through again until ``options.steps`` are done.
    held_out: the same; evaluated before, on the way, and after. teacher: a model whose outputs are imitated.
    tokenizer: the tokenizer.json that masked-lm takes its mask from. ``progress(done, steps, loss)`` follows each step.

    Raises BadData for batches or outputs that the task's loss cannot be made from, InvalidTarget for a teacher that
    does not fit, UnsupportedGraph as ``to_torch`` does, TrainingDiverged for a loss that is not a number.
    """
    from graphclone.pytorch.training import course

    beside = course.Beside(teacher=teacher, tokenizer=tokenizer)
    trained = course.run(model, batches, options, beside, held_out=held_out, progress=progress)
    return trained.model, trained.history


def reinitialised(model: Model, seed: int) -> Model:
    """The same graph with weights drawn at random, as its architecture is started from nothing: gains are ones, biases
    zeros, all else normal(0, 0.02). The same seed, the same weights."""
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
