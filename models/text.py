"""What every text parent has in common: example inputs, dynamic axes, and the pip packages behind its exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphclone.errors import InvalidTarget

if TYPE_CHECKING:
    from torch import Tensor

BATCH, LENGTH = 2, 11
DYNAMIC = {0: "batch", 1: "sequence"}


def example(vocab: int, *, token_types: int = 0) -> dict[str, Tensor]:
    """Token ids, their mask (one row padded) and, where the model has them, token types: int64 [batch, sequence]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[-1, -3:] = 0
    inputs = {
        "input_ids": torch.randint(vocab, (BATCH, LENGTH), generator=generator),
        "attention_mask": mask,
    }
    if token_types:
        inputs["token_type_ids"] = torch.randint(token_types, (BATCH, LENGTH), generator=generator)
    return inputs


def head_dim(recipe: str, hidden: int | None, heads: int | None) -> int:
    """Width of one head where heads share the hidden size evenly; InvalidTarget where they cannot."""
    if hidden is None or heads is None or hidden % heads:
        raise InvalidTarget(f"recipe {recipe}: hidden={hidden} does not divide into heads={heads}; choose a multiple")
    return hidden // heads
