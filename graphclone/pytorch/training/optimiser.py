"""AdamW with decoupled weight decay on matrices only, as GPT-2 and its followers do; and weights drawn afresh."""

from __future__ import annotations

import torch
from torch import nn

from graphclone.graph import Model
from graphclone.pytorch.training.options import TrainingOptions
from graphclone.pytorch.weights import Array, weight_map
from graphclone.pytorch.write_back import pack


def adamw(module: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    """The optimizer of every parameter that requires a gradient; its learning rate is set at each step."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if is_matrix(p)], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if not is_matrix(p)], "weight_decay": 0.0},
    ]
    fusible = all(p.dtype in (torch.float32, torch.float64) for p in trained)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, fused=fusible)


def is_matrix(parameter: torch.Tensor) -> bool:
    """Two axes or more that are longer than one: neither a gain nor a bias."""
    return parameter.dim() > 1 and max(parameter.shape) < parameter.numel()


def reinitialised(model: Model, seed: int, deviation: float = 0.02) -> Model:
    """The same graph with every weight drawn afresh, by what the graph does with it.

    A vector that multiplies (a norm's gain) becomes ones, a vector that is added (a bias) zeros, everything else
    normal(0, deviation), as GPT-2, Llama and BERT are initialised. The same seed, the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Array] = {}
    for weight in weight_map(model):
        normal = torch.randn(weight.shape, generator=generator) * deviation
        fixed = {"gain": torch.ones(weight.shape), "bias": torch.zeros(weight.shape)}
        values = fixed.get(weight.role, normal).numpy()
        drawn |= {name: values.T if turned else values for name, turned in weight.initializers}
    return pack(model, drawn)
