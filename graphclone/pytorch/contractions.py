"""Tells over how many numbers a product sums, from the shape of one operand.

What is multiplied and summed over is a weight whatever the other side holds; an outer product (rotary frequencies times
positions) sums over one number, and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import onnx_graphsurgeon as gs

Shape = Sequence[int]
Summed = Callable[[gs.Node, int, Shape], int]
MOVES = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})


def _matmul(node: gs.Node, index: int, shape: Shape) -> int:
    turned = node.attrs.get("transB" if index else "transA", 0)
    axis = -1 if (index == 0) != bool(turned) or len(shape) < 2 else -2
    return shape[axis] if shape else 1


def _kernel(node: gs.Node, index: int, shape: Shape) -> int:
    """A filter is a weight even where it has one number a channel."""
    return max(2, math.prod(shape[1:]))


def _einsum(node: gs.Node, index: int, shape: Shape) -> int:
    terms, arrow, result = node.attrs["equation"].replace(" ", "").replace("...", "").partition("->")
    kept = set(result) if arrow else {c for c in terms if terms.count(c) == 1}
    axes = terms.split(",")[index]
    named = zip(axes, shape[len(shape) - len(axes) :], strict=True)
    return math.prod(size for letter, size in named if letter not in kept)


TABLE: dict[str, tuple[Summed, tuple[int, ...]]] = {  # and which operands are multiplied
    "MatMul": (_matmul, (0, 1)),
    "FusedMatMul": (_matmul, (0, 1)),
    "Gemm": (_matmul, (0, 1)),
    "FusedGemm": (_matmul, (0, 1)),
    "Attention": (_matmul, (1,)),  # com.microsoft's
    "Conv": (_kernel, (1,)),
    "ConvTranspose": (_kernel, (1,)),
    "Einsum": (_einsum, tuple(range(8))),
}


def summed(node: gs.Node, index: int, shape: Shape) -> int:
    """How many numbers of an operand go into one of the result: 1 where the node is no such product."""
    function, operands = TABLE.get(node.op, (None, ()))
    if function is None or index not in operands or (node.op == "Attention" and node.domain == ""):
        return 1
    return function(node, index, shape)


def multiplied(graph: gs.Graph) -> set[str]:
    """Constants that are an operand of a summing product, as they are or moved."""
    return {
        name
        for node in graph.nodes
        if node.op in TABLE
        for index in TABLE[node.op][1]
        if index < len(node.inputs)
        for name in _source(node, index)
    }


def _source(node: gs.Node, index: int) -> Iterator[str]:
    tensor = node.inputs[index]
    moved = False
    while not isinstance(tensor, gs.Constant) and tensor.inputs and tensor.inputs[0].op in MOVES:
        tensor, moved = tensor.inputs[0].inputs[0], True
    if isinstance(tensor, gs.Constant) and (moved or summed(node, index, tensor.values.shape) > 1):
        yield tensor.name
