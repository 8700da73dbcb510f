"""Compares a written checkpoint with its model: Transformers runs the one, ONNX Runtime the other, on one tiny batch.

A config.json says more than sizes (epsilons, activations, windows, rotations), and nothing in the weights tells that
it is another model's: only the answers do.
"""

from __future__ import annotations

import inspect as signatures
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import UnsupportedGraph, VerificationFailed, one_line
from graphclone.graph import Model
from graphclone.requirements import TRANSFORMERS, MissingPackage
from graphclone.verification.memory import too_large
from graphclone.verification.oracle import allowed
from graphclone.verification.sessions import open_session
from graphclone.verification.zeroed import difference

Array = np.ndarray[Any, Any]
CONFIG = "config.json"
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
NEAR, TINY = 0.1, 1e-7  # what float16 makes of an epsilon, relative and absolute
NARROW_LENGTH = 7  # of models in 16 bits, whose graphs may compute far positions (T5's buckets) in that type too
BATCH, LENGTH, LONGEST = 2, 32, 64  # far positions tell rotations apart; a window shorter than LONGEST is passed
BEYOND, OFFSET = 5, 4  # positions beyond a window; positions that a table has more than tokens
POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")
FIRST = ("logits", "start_logits", "prediction_logits", "last_hidden_state")  # an output under another name is one
ELSEWHERE = {"positions": "position_ids"}  # roles that are an argument; other rules fill in what it takes by itself


class _NotCompared(Exception):
    """Why the two cannot be held beside each other."""


@dataclass(frozen=True)
class Answers:
    """difference: the largest, of the largest output; None where nothing was compared, and ``why``."""

    difference: float | None
    why: str | None = None


def refuse_epsilons(config: Mapping[str, Any], anatomy: Anatomy) -> None:
    """Of the norms, as far as the config names them. Raises VerificationFailed for one that no norm adds."""
    norms = [n for stack in anatomy.stacks for n in (*stack.norms, *(n for b in stack.blocks for n in b.norms))]
    added = sorted({norm.epsilon for norm in norms if norm.epsilon > 0})
    for key in EPSILONS:
        said = config.get(key)
        if added and isinstance(said, int | float) and not any(_near(said, epsilon) for epsilon in added):
            shown = ", ".join(f"{epsilon:.3g}" for epsilon in added)
            raise VerificationFailed(f"{CONFIG} says {key} {said:g}, the graph's norms add {shown}: another model's?")


def _near(said: float, added: float) -> bool:
    return abs(said - added) <= max(NEAR * added, TINY)


def compare(model: Model, folder: Path, architecture: str) -> Answers:
    """The checkpoint in a folder beside the model. Raises VerificationFailed, naming the largest difference."""
    if reason := TRANSFORMERS.fault or too_large(model, model):
        return Answers(None, reason)
    try:
        return Answers(_compared(model, folder, architecture))
    except (_NotCompared, MissingPackage, UnsupportedGraph) as reason:
        return Answers(None, one_line(reason))


def _compared(model: Model, folder: Path, architecture: str) -> float:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    fed = _fed(model, config)
    with _quietly():
        module = _loaded(folder, architecture)
        answer = _answer(module, _arguments(model, module, fed))
    expected = open_session(model).run(fed)
    pairs = dict(_pairs(expected, answer))
    if not pairs:
        raise _NotCompared(f"{architecture} has no output like {', '.join(expected)}")
    wanted = {name: expected[name] for name in pairs}
    worst, where = difference(wanted, pairs)
    limit = allowed(worst, model, lambda: difference(wanted, open_session(model, optimise=False).run(fed))[0])
    if not worst <= limit:
        raise VerificationFailed(
            f"{architecture} with this {CONFIG} answers otherwise than the graph: largest relative difference "
            f"{worst:.3g} in {where}, at most {limit:.3g} is rounding: is it the {CONFIG} of the exported model?"
        )
    return worst


def _fed(model: Model, config: Mapping[str, Any]) -> dict[str, Array]:
    """Longer than a window of attention that is short; images as large as the config says."""
    windows = [config.get(key) for key in ("sliding_window", "attention_window", "local_attention")]
    short = [w for w in windows if isinstance(w, int) and 0 < w < LONGEST]
    narrow = any(array.dtype.itemsize == 2 and array.dtype.kind in "fV" for array in model.constants().values())
    length = max([NARROW_LENGTH if narrow else LENGTH, *(w + BEYOND for w in short)])
    tables = [config.get(key) for key in POSITIONS]
    length = min([length, *(max(rows - OFFSET, 1) for rows in tables if isinstance(rows, int))])
    fed = feeds.tiny_feeds(model, BATCH, length)
    side = config.get("image_size")
    for name, given in feeds.inputs(model).items():
        if given.primary and fed[name].ndim == 4 and isinstance(side, int):
            shape = [
                d if isinstance(d, int) else s
                for d, s in zip(given.shape, (*fed[name].shape[:2], side, side), strict=True)
            ]
            fed[name] = np.random.default_rng(0).standard_normal(shape).astype(given.dtype)
    return fed


@contextmanager
def _quietly() -> Iterator[None]:
    """What Transformers says of missing poolers and its progress is not for who writes a checkpoint."""
    from transformers.utils import logging as said

    level, shown = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity(logging.CRITICAL)
    said.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        said.set_verbosity(level)
        if shown:
            said.enable_progress_bar()  # type: ignore[no-untyped-call]


def _loaded(folder: Path, architecture: str) -> torch.nn.Module:
    import transformers

    try:
        module = getattr(transformers, architecture).from_pretrained(folder, dtype="auto", local_files_only=True)
    except Exception as reason:  # noqa: BLE001  Transformers' share no base but Exception
        raise VerificationFailed(f"Transformers cannot load it as {architecture}: {one_line(reason, 300)}") from None
    loaded: torch.nn.Module = module.eval()
    return loaded


def _arguments(model: Model, module: torch.nn.Module, fed: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """By the names of Transformers: those that the graph has already, else the module's main input and the decoder's.
    Masks hide nothing and caches are empty: they are left out."""
    known = signatures.signature(module.forward).parameters
    inputs = feeds.inputs(model)
    names = {n: n for n, i in inputs.items() if i.primary and n in known}
    names |= {n: ELSEWHERE[i.role.name] for n, i in inputs.items() if ELSEWHERE.get(i.role.name) in known}
    main = str(getattr(module, "main_input_name", "input_ids"))
    free = [n for n in (main, "decoder_input_ids") if n in known and n not in names.values()]
    for name, given in inputs.items():
        if given.primary and name not in names:
            if not free:
                raise _NotCompared(f"{type(module).__name__} has no argument for the graph's input {given}")
            names[name] = free.pop(0)
    made = {argument: torch.from_numpy(fed[name]) for name, argument in names.items()}
    dtype = next(module.parameters()).dtype
    return {n: t.to(dtype) if t.is_floating_point() else t.long() for n, t in made.items()}


def _answer(module: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    try:
        with torch.no_grad():
            said = module(**given)
    except Exception as reason:  # noqa: BLE001  as above
        raise _NotCompared(f"Transformers does not run it on a batch of the graph's: {one_line(reason, 300)}") from None
    return {name: t.float().numpy() for name, t in said.items() if isinstance(t, torch.Tensor)}


def _pairs(expected: Mapping[str, Array], answer: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The graph's outputs with those of Transformers under the same name, else what comes first of both."""
    named = {n: answer[n] for n, array in expected.items() if n in answer and answer[n].shape == array.shape}
    yield from named.items()
    first = next((answer[name] for name in FIRST if name in answer), None)
    for name, array in expected.items():
        if not named and first is not None and array.shape == first.shape and math.prod(array.shape):
            yield name, first
            return
