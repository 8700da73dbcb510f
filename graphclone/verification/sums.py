"""Means that are written as sums: ReduceSum(x) / d, ReduceL2(x) * d^-1/2, and what they divide by over k of d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
BETWEEN = ("Cast", "Identity", "Sqrt", "Reshape", "Squeeze", "Unsqueeze")  # a sum and what divides it
POWERS = (1.0, -1.0, 0.5, -0.5)
SAME = 4e-3  # relative: what rounding to bfloat16 leaves


@dataclass(frozen=True)
class Length:
    """The operand of a node that is ``length ** power``."""

    node: gs.Node
    place: int
    power: float

    def shorten(self, twin: gs.Node, length: int) -> None:
        """Have the node's twin in another graph divide by another length; other readers of the number keep theirs."""
        held: Any = self.node.inputs[self.place]
        values = np.full(held.values.shape, float(length) ** self.power).astype(held.values.dtype)
        twin.inputs[self.place] = gs.Constant(f"{twin.outputs[0].name}@length", values)


def lengths(reduction: gs.Node, length: int) -> list[Length]:
    """Where a sum over ``length`` channels is made a mean by a constant; none for a sum that is none."""
    found, waiting = [], list(reduction.outputs)
    while waiting:
        tensor = waiting.pop()
        for node in tensor.outputs:
            if node.op in BETWEEN:
                waiting += node.outputs
            elif node.op in ("Mul", "Div"):
                place = 1 if node.inputs[0] is tensor else 0
                power = _power(node.inputs[place], length)
                found += [] if power is None else [Length(node, place, power)]
    return found


def _power(tensor: gs.Tensor, length: int) -> float | None:
    if not isinstance(tensor, gs.Constant) or tensor.values.size != 1 or tensor.values.dtype.kind not in "fV":
        return None
    number = float(tensor.values.reshape(-1)[0])
    return next((p for p in POWERS if abs(number - length**p) <= SAME * length**p), None)
