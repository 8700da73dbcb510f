"""Means that are written as sums: ReduceSum(x) / d, ReduceL2(x) * d^-1/2, and what they divide by over k of d.

An unbiased variance is a sum by d - 1, or a mean times d by d - 1; either number may be computed from a shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
BETWEEN = ("Cast", "Identity", "Sqrt", "Reshape", "Squeeze", "Unsqueeze")  # a sum and what divides it
HANDED_ON = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "ReduceProd")  # the number of one element
Dims = Mapping[str, Sequence[int]]  # sizes of values, 0 for one that is not known
POWERS = (1.0, -1.0, 0.5, -0.5)
SAME = 4e-3  # relative: what rounding to bfloat16 leaves


@dataclass(frozen=True)
class Length:
    """The operand of a node that is ``(length - less) ** power``, or ``length / (length - 1)``."""

    node: gs.Node
    place: int
    power: float = 1.0
    less: int = 0
    ratio: bool = False

    def shorten(self, twin: gs.Node, length: int) -> None:
        """Have the node's twin in another graph divide by another length; other readers of the number keep theirs."""
        held: Any = self.node.inputs[self.place]
        shape, dtype = (held.values.shape, held.values.dtype) if isinstance(held, gs.Constant) else ((), _type(held))
        number = length / max(length - 1, 1) if self.ratio else float(length - self.less) ** self.power
        twin.inputs[self.place] = gs.Constant(
            f"{twin.outputs[0].name}@length{self.place}", np.full(shape, number).astype(dtype)
        )


def lengths(reduction: gs.Node, length: int) -> list[Length]:
    """Where a sum over ``length`` channels is made a mean by a constant; none for a sum that is none."""
    found = []
    for node, place in _behind(reduction):
        number = node.inputs[place]
        power = _power(number, length)
        less = node.op == "Div" and _is(number, length - 1, {}) and not _is(number, length, {})
        if less or power is not None:
            found.append(Length(node, place, 1.0, 1) if less else Length(node, place, power or 1.0))
    return found


def unbiased(mean: gs.Node, length: int, dims: Dims) -> list[Length]:
    """What corrects a mean over ``length`` channels to be a sum by one less: times one and by the other, or at once."""
    found = []
    for node, place in _behind(mean):
        number = node.inputs[place]
        if node.op != "Mul" or length < 2:
            continue
        if _is(number, length, dims):
            by = [
                Length(n, p, less=1) for n, p in _behind(node) if n.op == "Div" and _is(n.inputs[p], length - 1, dims)
            ]
            found += [Length(node, place), *by] if by else []
        elif _is(number, length / (length - 1), dims) and not _is(number, 1.0, dims):
            found.append(Length(node, place, ratio=True))
    return found


def _behind(reduction: gs.Node) -> Iterator[tuple[gs.Node, int]]:
    """Products and quotients of what a node makes, and their other operand."""
    waiting = list(reduction.outputs)
    while waiting:
        tensor = waiting.pop()
        for node in tensor.outputs:
            if node.op in BETWEEN:
                waiting += node.outputs
            elif node.op in ("Mul", "Div"):
                yield node, 1 if node.inputs[0] is tensor else 0


def _power(tensor: gs.Tensor, length: int) -> float | None:
    if not isinstance(tensor, gs.Constant) or tensor.values.size != 1 or tensor.values.dtype.kind not in "fV":
        return None
    number = float(tensor.values.reshape(-1)[0])
    return next((p for p in POWERS if abs(number - length**p) <= SAME * length**p), None)


def _is(tensor: gs.Tensor, number: float, dims: Dims) -> bool:
    """Is an operand a number, rounded once, or computed from a size to be it?"""
    if isinstance(tensor, gs.Constant):
        held = tensor.values
        return held.size == 1 and held.dtype.kind in "fV" and bool((held == np.asarray(number, held.dtype)).all())
    return _counted(tensor, dims) == number


def _counted(tensor: gs.Tensor, dims: Dims) -> float | None:
    """What is computed from one size of a value that is known."""
    if isinstance(tensor, gs.Constant):
        return float(tensor.values.reshape(-1)[0]) if tensor.values.size == 1 else None
    maker = next(iter(tensor.inputs), None)
    if maker is None:
        return None
    if maker.op == "Sub":
        left, right = (_counted(t, dims) for t in maker.inputs)
        return None if left is None or right is None else left - right
    if maker.op == "Gather" and [n.op for n in maker.inputs[0].inputs] == ["Shape"]:
        sizes, place = dims.get(maker.inputs[0].inputs[0].inputs[0].name, ()), _counted(maker.inputs[1], dims)
        known = place is not None and -len(sizes) <= place < len(sizes)
        return float(sizes[int(place)]) if known and place is not None else None
    return _counted(maker.inputs[0], dims) if maker.op in HANDED_ON else None


def _type(tensor: gs.Tensor) -> Any:
    """Of a number that is computed from a size: what that was cast to."""
    while tensor.inputs:
        maker = tensor.inputs[0]
        if maker.op == "Cast":
            return onnx.helper.tensor_dtype_to_np_dtype(int(maker.attrs["to"]))
        tensor = maker.inputs[0]
    return np.float32
