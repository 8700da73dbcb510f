"""What a clone that gives logits is trained as: nothing stands behind it, whoever it began as."""

from __future__ import annotations

import torch
from torch import nn

from graphclone.graph import Model


class Logits(nn.Module):
    """The clone alone."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, **fed: torch.Tensor) -> torch.Tensor:
        """[batch, ..., classes or vocabulary]."""
        found: torch.Tensor = self.inside(**fed)["logits"]
        return found


def dress(module: nn.Module, clone: Model, nothing: bool, seed: int) -> nn.Module:
    """A task's ``dress``."""
    return Logits(module)
