"""Numbers that say over how many neurons a sum goes: a mean may be written as a sum divided by its length.

JAX's mean is ReduceSum(x) / d, and a root mean square may be ReduceL2(x) * d^-1/2. The value that is divided carries no
neuron any more, so the number is found from the sum, not from the stream. A sum that nothing divides stays one.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import node_key
from graphclone.surgery.cut import Cut

SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
PASSED = ("Cast", "Identity", "Sqrt", "Reshape", "Squeeze", "Unsqueeze")  # between a sum and what divides it
POWERS = (1.0, -1.0, 0.5, -0.5)  # of the length: divided or multiplied by, before a root or behind it
SAME = 4e-3  # relative: the constant may have been rounded to bfloat16


def divisor(cut: Cut, node: gs.Node, place: int) -> float | None:
    """What an operand of a Mul or Div becomes that is a power of the length of a sum that is cut; None for others."""
    held, reduction = cut.trace.input(node, place), _sum_behind(node.inputs[1 - place])
    data = held.data if held is not None and held.static else None
    if data is None or reduction is None or data.size != 1 or data.dtype.kind not in "fV":
        return None
    full, kept = _length(cut, reduction)
    number = float(data.reshape(-1)[0])
    power = next((p for p in POWERS if abs(number - full**p) <= SAME * full**p), None)
    return None if kept == full or power is None else float(kept**power)


def _sum_behind(tensor: gs.Tensor) -> gs.Node | None:
    while tensor.inputs and tensor.inputs[0].op in PASSED:
        tensor = tensor.inputs[0].inputs[0]
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if maker is not None and maker.op in SUMS else None


def _length(cut: Cut, reduction: gs.Node) -> tuple[int, int]:
    """Neurons that a sum goes over, and how many of them are kept."""
    key = node_key(reduction)
    notes = [n for n in cut.trace.notes if n.kind == "reduction" and node_key(n.node) == key]
    axes = [(note.inputs[0].axis(note.axis), note.inputs[0].shape[note.axis]) for note in notes]
    return math.prod(full for _, full in axes), math.prod(cut.size(factors, full) for factors, full in axes)
