"""How long an input the convolutions before the first matrix product need; for an image, the side of its patches."""

from __future__ import annotations

import onnx_graphsurgeon as gs

PRODUCTS = ("MatMul", "Gemm", "Attention")
Window = tuple[int, int]  # stride, and how far the kernel reaches beyond its padding
SIGNAL = 3  # axes of the weight of a convolution along one axis


def stride(tensor: gs.Tensor) -> int:
    """Of the convolution that reads an image: the side of its patches; 1 where there is none."""
    strides = [max(node.attrs.get("strides", [1])) for node in tensor.outputs if node.op == "Conv"]
    return int(max(strides, default=1))


def windows(tensor: gs.Tensor) -> tuple[Window, ...]:
    """The convolutions along one axis that follow an input, one after the other, up to the first product.

    >>> x, y = gs.Variable("x", shape=[2, 4, "t"]), gs.Variable("y")
    >>> _ = gs.Node("Conv", inputs=[x, gs.Variable("w", shape=[6, 4, 10])], outputs=[y], attrs={"strides": [5]})
    >>> windows(x)
    ((5, 10),)
    """
    found: list[Window] = []
    stack, seen = [tensor], set[str]()
    while stack:
        for node in stack.pop().outputs:
            if node.op in PRODUCTS or node.outputs[0].name in seen:
                continue
            seen.add(node.outputs[0].name)
            stack.append(node.outputs[0])
            shape = node.inputs[1].shape if node.op == "Conv" else None
            if shape is not None and len(shape) == SIGNAL:
                reach = node.attrs.get("dilations", [1])[0] * (shape[2] - 1) + 1 - sum(node.attrs.get("pads", [0]))
                found.append((int(node.attrs.get("strides", [1])[0]), int(reach)))
    return tuple(found)


def samples(length: int, given: tuple[Window, ...]) -> int:
    """How long a signal is of which ``length`` steps are left after its convolutions.

    >>> samples(3, ((5, 10), (4, 4)))
    65
    """
    for step, reach in reversed(given):
        length = (length - 1) * step + reach
    return length
