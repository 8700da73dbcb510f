"""Products of integers that no CPU cuts short.

x86 CPUs without VNNI add each two products of an unsigned and a signed byte in 16 bits, which saturate: results are off
by a fifth where weights use all of their range, and by another amount in another order of channels, so that a clone
would not equal its parent. Where both bytes are unsigned, products are whole. ONNX Runtime writes them so itself where
it optimises and ``EXACT`` is set; where nodes are run as they stand, this does.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model

EXACT = "session.x64quantprecision"  # a session's entry, "1": whole products, more slowly
SHIFT = 128
WEIGHT, ZERO = 1, 3  # inputs of MatMulInteger (onnx/docs/Operators.md)


def unsigned(model: Model) -> Model:
    """The model, its MatMulInteger weights of int8 as uint8, by ``SHIFT`` more, as their zero points are: the same
    products. The model itself where there are none."""
    if not any(_signed(node) for node in model.graph.nodes):
        return model
    model = model.copy()
    made: dict[tuple[str, int], gs.Constant] = {}
    for node in [node for node in model.graph.nodes if _signed(node)]:
        while len(node.inputs) <= ZERO:
            node.inputs.append(gs.Variable.empty())
        for place in (WEIGHT, ZERO):
            held = node.inputs[place]
            key = (held.name, place)
            if key not in made:
                values = np.zeros((), np.int8) if held.is_empty() else np.asarray(held.values)
                shifted = np.asarray(values.astype(np.int16) + SHIFT, np.uint8)
                made[key] = gs.Constant(f"{held.name or 'zero'}.unsigned.{place}", shifted)
            node.inputs[place] = made[key]
    return model


def _signed(node: gs.Node) -> bool:
    """Bytes that DynamicQuantizeLinear made, which are unsigned, times constants that are not."""
    if node.op != "MatMulInteger" or [n.op for n in node.inputs[0].inputs] != ["DynamicQuantizeLinear"]:
        return False
    zero = node.inputs[ZERO] if len(node.inputs) > ZERO else gs.Variable.empty()
    constant = isinstance(node.inputs[WEIGHT], gs.Constant) and (zero.is_empty() or isinstance(zero, gs.Constant))
    return constant and np.dtype(node.inputs[WEIGHT].dtype) == np.int8
