"""Seeded random weights, every parameter different from every other.

Fresh modules start with all-zero biases and all-one gains, which exporters merge into shared tensors; weights that
are never equal by accident keep the parents honest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from models.recipe import Options

if TYPE_CHECKING:
    from torch import nn

BIAS_STD = 0.1
GAIN_STD = 0.2


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter in place from ``seed``: matrices keep the scale of what flows through them, gains stay
    near one, biases near zero. Returns the module, in evaluation mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():  # tied parameters come once
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and not name.endswith("bias"):
                parameter.copy_(1.0 + GAIN_STD * noise)
            elif parameter.dim() == 1:
                parameter.copy_(BIAS_STD * noise)
            else:
                parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
    return module.eval()


def seeded(architecture: Any, configuration: Any, options: Options, **settings: Any) -> nn.Module:
    """A transformers architecture of the given settings, with random weights from the options' seed."""
    module: nn.Module = architecture(configuration(attn_implementation=options.attention, **settings))
    return randomise(module, options.seed)
