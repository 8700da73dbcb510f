"""Finds constant factors on a product's weight and bias (Gemm's alpha, beta): a fitted weight is divided by them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphclone.anatomy.normalisations import FAR_ENOUGH
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import node_key
from graphclone.surgery.slice_weights import Use

GEMMS = ("Gemm", "FusedGemm")  # with a bias as third input, and an attribute beta for it
SCALED = (*GEMMS, "FusedMatMul", "TransposeMatMul")  # by an attribute alpha
MOVES = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def of_weight(p: Projection) -> float | None:
    """Of a weight as float numbers; None where more than a number, or another operator, meets it on its way."""
    node, found = p.node, float(p.node.attrs.get("alpha", 1.0)) if p.node.op in SCALED else 1.0
    for _ in range(FAR_ENOUGH):
        if node is not p.node:
            step = _step(node)
            if step is None:
                return None
            found *= step
        if any(isinstance(t, gs.Constant) and t.name == p.weight for t in node.inputs):
            return found
        above = [t.inputs[0] for t in node.inputs if t.inputs and t.name != p.input]
        if not above:
            break
        node = above[0]
    return None


def _step(node: gs.Node) -> float | None:
    """The number that a node between a weight and its product multiplies it by."""
    if node.op in MOVES:
        return 1.0
    numbers = [k for k, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and t.values.size == 1]
    if node.op not in ("Mul", "Div") or not numbers:
        return None
    value = float(node.inputs[numbers[-1]].values.reshape(-1)[0])
    if node.op == "Mul":
        return value
    return 1.0 / value if value and numbers[-1] == 1 else None


def of_bias(p: Projection, bias: Use) -> float:
    """Of what ``bias_of`` found: Gemm's beta, where it is Gemm's own."""
    return float(p.node.attrs.get("beta", 1.0)) if bias[0] == node_key(p.node) else 1.0
