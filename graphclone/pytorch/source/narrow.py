"""Modules whose weights are kept in half precision and widened where they are used, as a Cast in the graph does."""

from __future__ import annotations

import re
from collections.abc import Iterable

CLASS = '''class Narrow{kind}(nn.{kind}):
    """Computes in float32, whatever its weights are kept in."""

    def forward(self, x):
'''
BIAS = "bias = None if self.bias is None else self.bias.to(x.dtype)"
SETTING = "self.stride, self.padding, self.dilation, self.groups"
FORWARD = {  # module of torch.nn -> the lines of its forward
    "Linear": (BIAS, "return F.linear(x, self.weight.to(x.dtype), bias)"),
    "Embedding": ("return F.embedding(x, self.weight).to(torch.float32)",),  # the rows alone are widened
    "RMSNorm": ("return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)",),
    "LayerNorm": (BIAS, "return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)"),
    **{f"Conv{n}d": (BIAS, f"return F.conv{n}d(x, self.weight.to(x.dtype), bias, {SETTING})") for n in (1, 2, 3)},
}


def narrowed(build: str) -> str:
    """The text that makes a module of torch.nn, making the one that keeps its weights in half precision."""
    return build.replace("nn.", "Narrow", 1)


def needed(lines: Iterable[str]) -> dict[str, str]:
    """Name -> source of those that some lines make."""
    kinds = dict.fromkeys(kind for line in lines for kind in re.findall(r"\bNarrow(\w+)\(", line))
    body = {kind: "".join(f"        {line}\n" for line in FORWARD[kind]) for kind in kinds}
    return {f"Narrow{kind}": CLASS.format(kind=kind) + body[kind] for kind in kinds}
