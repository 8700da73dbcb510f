"""Integers that stand for numbers: scales and zero points live and die with the channels that they are of.

Formats: onnx/docs/Operators.md (DequantizeLinear-21, MatMulInteger-10). A scale for several positions of an axis
(blocked) ties them: whole blocks are cut. Weights of 4 bits are floats before they come here (dequantise.py).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.linear import matmul, pair
from graphclone.anatomy.flows.table import first, row
from graphclone.anatomy.trace import Trace, Value, plain


@row("DequantizeLinear", "QuantizeLinear")
@row("DequantizeLinear", "QuantizeLinear", domain="com.microsoft")
def linear(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """x, scale, zero point: one of each for the tensor, for each position of an axis, or for each block of it."""
    value, block = first(node, inputs), int(node.attrs.get("block_size", 0))
    for setting in inputs[1:]:
        if setting is None or not setting.labelled:
            continue
        blocked = int(node.attrs.get("axis", 1)) % len(value.shape)
        if len(setting.shape) == 1 and not block:
            trace.tie(node, value.axis(blocked), setting.axis(0))
            continue
        for axis, (size, blocks) in enumerate(zip(value.shape, setting.shape, strict=True)):
            shared = block if axis == blocked else 1  # as the node says: the sizes alone leave several answers
            if shared < 1 or -(-size // shared) != blocks:
                raise ValueError(f"{blocks} scales or zero points of {size} numbers, in blocks of {shared}")
            of_block = np.arange(size) // shared
            trace.tie(node, value.axis(axis), tuple(f[of_block] for f in setting.axis(axis)))
    return [Value(value.shape, value.factors, static=value.static)]


@row("DynamicQuantizeLinear")
def dynamic(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """One scale and one zero point for all, from the smallest and the largest number."""
    value = first(node, inputs)
    return [Value(value.shape, value.factors), plain(()), plain(())]


@row("MatMulInteger")
def product(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """A, B and their zero points: B's may be one a column."""
    a, b = pair(node, inputs)
    (out,) = matmul(trace, node, [a, b])
    rows, columns = (inputs[k] if k < len(inputs) else None for k in (2, 3))
    for zero_point, axis in ((rows, -2), (columns, -1)):
        if zero_point is not None and zero_point.labelled:
            trace.tie(node, out.axis(axis), zero_point.axis(0))
    return [out]
