"""Training an imported module: a plain loop for causal language models.

AdamW with decoupled weight decay on matrices only (as GPT-2 and its followers do), linear warm-up, cosine decay and
gradient clipping. The same seed, module and batches give the same curve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.pytorch.weights import WeightMap

Batch = Mapping[str, "np.ndarray[Any, Any] | torch.Tensor"]
IGNORED = -100  # a target that does not count
IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"


class TrainingDiverged(GraphCloneError):
    """The loss is not a number any more; the message says at which step."""


@dataclass(frozen=True)
class TrainingOptions:
    """steps: optimizer updates, each on one batch; batches repeat if there are fewer.

    The learning rate rises over ``warmup`` (a share of the steps) and falls to ``final`` times itself along a cosine.
    ``clip``: largest norm of the whole gradient. ``evaluate_every``: steps between evaluations, 0 for none.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    final: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    evaluate_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or not 0 <= self.warmup <= 1 or not self.clip > 0:
            raise InvalidTarget(
                f"training takes steps >= 1, learning rate > 0, warmup in [0, 1] and clip > 0; given steps "
                f"{self.steps}, learning rate {self.learning_rate}, warmup {self.warmup}, clip {self.clip}"
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class History:
    """losses[i]: mean loss per token of step i's batch, in nats, before its update; evaluations: (steps done, loss)."""

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def train(
    module: nn.Module,
    batches: Iterable[Batch],
    options: TrainingOptions,
    *,
    held_out: Iterable[Batch] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> History:
    """Train in place on windows of token ids ([batch, length] under ``input_ids``, 0 in ``attention_mask`` = padding).

    ``progress(steps done, steps, loss)`` is called after each step. Raises TrainingDiverged, leaving the weights as
    they were before the update, when a loss or gradient is not finite.
    """
    torch.manual_seed(options.seed)
    optimizer = _optimizer(module, options)
    history = History()
    started = time.monotonic()
    module.train()
    for step, batch in zip(range(options.steps), _endless(batches), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = options.rate(step)
        loss, tokens = causal_loss(module, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDiverged(f"the loss is {value} at step {step + 1}: try a lower learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), options.clip))
        if not math.isfinite(norm):
            raise TrainingDiverged(f"the gradient's norm is {norm} at step {step + 1}: try a lower learning rate")
        optimizer.step()
        history.losses.append(value)
        history.gradient_norms.append(norm)
        history.tokens += tokens
        if held_out is not None and options.evaluate_every and (step + 1) % options.evaluate_every == 0:
            history.evaluations.append((step + 1, evaluate(module, held_out)))
            module.train()
        if progress is not None:
            progress(step + 1, options.steps, value)
    history.seconds = time.monotonic() - started
    return history


def evaluate(module: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean loss per token in nats over all batches."""
    module.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            loss, tokens = causal_loss(module, batch)
            total, count = total + loss.item() * tokens, count + tokens
    if not count:
        raise BadData("nothing to evaluate on: no batch, or no token to predict")
    return total / count


def causal_loss(module: nn.Module, batch: Batch) -> tuple[torch.Tensor, int]:
    """Cross-entropy of each next token (mean, in nats) and the number of tokens predicted; padding does not count."""
    inputs = _inputs(module, batch)
    logits_BTV = _logits(module(**inputs))
    ids_BT = inputs[IDS]
    targets_BT = torch.full_like(ids_BT, IGNORED, dtype=torch.int64)  # the last token predicts nothing
    targets_BT[:, :-1] = ids_BT[:, 1:]
    if MASK in inputs:
        targets_BT[:, :-1].masked_fill_(inputs[MASK][:, 1:] == 0, IGNORED)
    tokens = int((targets_BT != IGNORED).sum())
    if not tokens:
        raise BadData(f"a batch of shape {list(ids_BT.shape)} has no token to predict: windows need two tokens or more")
    flat = logits_BTV.reshape(-1, logits_BTV.shape[-1]).float()  # whole: a slice would copy the largest tensor there is
    return F.cross_entropy(flat, targets_BT.reshape(-1), ignore_index=IGNORED), tokens


def _inputs(module: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """What the module takes of the batch, as tensors where its parameters are."""
    if IDS not in batch:
        raise BadData(f"a batch for causal training needs {IDS}; it has {', '.join(sorted(batch))}")
    arguments = getattr(module, "meta", {}).get("graphclone.inputs")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    named = {name: name for name in batch} if arguments is None else arguments
    missing = sorted(set(named) - set(batch))
    if missing:
        raise BadData(f"the module's input {', '.join(missing)} is not in the batch ({', '.join(sorted(batch))})")
    return {argument: torch.as_tensor(batch[name]).to(device) for name, argument in named.items()}


def _logits(outputs: Any) -> torch.Tensor:
    """The output called logits, or the only one."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    if LOGITS in outputs or len(outputs) == 1:
        found: torch.Tensor = outputs[LOGITS] if LOGITS in outputs else next(iter(outputs.values()))
        return found
    raise BadData(f"no output is called {LOGITS}: the model gives {', '.join(outputs)}; is it a language model?")


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise BadData("no batch to train on (a generator is used up after one pass: give a list)")


def _optimizer(module: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if _is_matrix(p)], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, fused=_fusible(trained))


def _fusible(parameters: list[nn.Parameter]) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in parameters)


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.dim() > 1 and max(parameter.shape) < parameter.numel()


def reinitialise(module: nn.Module, seed: int, deviation: float = 0.02) -> None:
    """Draw every weight afresh, in place, by what the graph does with it.

    A vector that multiplies (a norm's gain) becomes ones, a vector that is added (a bias) zeros, everything else
    normal(0, deviation), as GPT-2, Llama and BERT are initialised. Buffers stay.
    """
    held = getattr(module, "meta", {}).get("graphclone.weights")
    if not isinstance(held, WeightMap):
        raise InvalidTarget("only a module made by to_torch says how its weights are used")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in held:
            parameter = module.get_parameter(weight.name)
            drawn = torch.randn(weight.shape, generator=generator) * deviation
            fresh = {"gain": torch.ones(weight.shape), "bias": torch.zeros(weight.shape)}.get(weight.role, drawn)
            parameter.copy_(fresh)
