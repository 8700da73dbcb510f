"""Norms that are one operator, and how nodes and their constants are known."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Form:
    """A norm that is one operator: where its parts stand. sums: inputs added up before; whole: output of that sum;
    epsilon: where the node does not say."""

    centred: bool
    gain: int
    bias: int | None = None
    sums: tuple[int, ...] = (0,)
    whole: int | None = None
    epsilon: float = 1e-5


FORMS = {  # onnx/docs/Operators.md, onnxruntime/docs/ContribOperators.md
    "LayerNormalization": Form(True, 1, 2),
    "RMSNormalization": Form(False, 1),
    "SimplifiedLayerNormalization": Form(False, 1),
    "SkipLayerNormalization": Form(True, 2, 3, (0, 1, 4), 3, 1e-12),
    "SkipSimplifiedLayerNormalization": Form(False, 2, None, (0, 1, 3), 3, 1e-12),
}
OTHERS = (
    "EmbedLayerNormalization",
    "MeanVarianceNormalization",
    "AveragePool",
    "GroupNormalization",
    "InstanceNormalization",
    "GroupNorm",
    "LRN",
)


def constant(tensor: gs.Tensor) -> gs.Constant | None:
    """The constant that a value is, however it is handed on."""
    while not isinstance(tensor, gs.Constant):
        if not tensor.inputs or tensor.inputs[0].op not in ("Identity", "Cast", "DequantizeLinear"):
            return None
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def name_of(node: gs.Node) -> str:
    """What a node is known by: its first output."""
    return str(node.outputs[0].name) if node.outputs else ""
