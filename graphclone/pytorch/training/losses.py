"""Losses: each is a mean over the positions that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

IGNORED = -100  # a target that does not count, as torch's cross-entropy has it
SMALLEST = 1e-8  # of the probability left beside a teacher's top tokens


@dataclass(frozen=True)
class Taught:
    """What the teacher says of a batch, on the clone's device.

    output: logits [batch, ..., vocabulary], or an embedding. top: where only the likeliest tokens are kept, their ids;
    ``output`` then holds their log-probabilities. hidden: the residual stream after each block, kept neurons alone.
    """

    output: torch.Tensor | None = None
    top: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] = ()


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the targets that are not IGNORED, in nats; 0 where there is none."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    if bool((targets != IGNORED).any()):
        return F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED)
    return F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED, reduction="sum")


def divergence(logits: torch.Tensor, taught: Taught, seen: torch.Tensor | None) -> torch.Tensor:
    """Forward KL, teacher to clone, at temperature 1: mean over the places seen, in nats.

    Where only the teacher's top tokens are known, all others count as one more token: a lower bound of the whole.
    """
    assert taught.output is not None
    ours = F.log_softmax(logits.float(), -1)
    if taught.top is None:
        theirs = F.log_softmax(taught.output.float(), -1)
    else:
        theirs = _with_rest(taught.output.float())
        ours = _with_rest(ours.gather(-1, taught.top.long()))
    each = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
    return _mean(each, seen)


def _with_rest(logs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some tokens, and of all others together."""
    rest = (1 - logs.exp().sum(-1, keepdim=True)).clamp_min(SMALLEST).log()
    return torch.cat([logs, rest], -1)


def hidden_distance(
    ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], seen: torch.Tensor | None
) -> torch.Tensor:
    """1 - cosine between the clone's residual stream and the teacher's kept neurons; mean over blocks and places."""
    each = [
        _mean(1 - F.cosine_similarity(a.float(), b.float(), dim=-1), seen) for a, b in zip(ours, theirs, strict=True)
    ]
    return torch.stack(each).mean()


def embedding_distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """1 - cosine, mean over rows."""
    return (1 - F.cosine_similarity(ours.float(), theirs.float(), dim=-1)).mean()


def pooled(output: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """One vector a row: [batch, place, width] becomes the mean over the places seen."""
    if output.dim() == 2:
        return output
    flat = output.reshape(output.shape[0], -1, output.shape[-1])
    if seen is None or seen.shape != flat.shape[:2]:
        return flat.mean(1)
    weight = seen.to(flat.dtype)[..., None]
    return (flat * weight).sum(1) / weight.sum(1).clamp_min(1)


def _mean(each: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Over the places seen, where ``seen`` says so for these places; 0 where none is."""
    if seen is None or seen.shape != each.shape:
        return each.mean()
    return each[seen].mean() if bool(seen.any()) else each.sum() * 0
