"""Elementwise operators: aligned positions are one neuron."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.table import first, row
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Trace, Value, describe, opset

UNARY = (
    "Abs Acos Asin Atan Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish "
    "Tan Tanh ThresholdedRelu Cast Dropout"
).split()
NARY = (
    "Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu "
    "Sub Sum Where Xor CastLike"
).split()
SOFTMAX_OF_ONE_AXIS = 13  # the operator set from which on; before, all axes from that one on are one (Changelog.md)


@row(*UNARY)
@row("FastGelu", "QuickGelu", "Gelu", "BiasGelu", domain="com.microsoft")
def elementwise(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """One main input; a further float input (the bias of BiasGelu) is aligned with it."""
    operands = [first(node, inputs)]
    if node.op in ("BiasGelu", "FastGelu") and len(inputs) > 1 and inputs[1] is not None:
        operands.append(inputs[1])
    out = aligned(trace, node, operands)
    return [out] * max(1, sum(1 for t in node.outputs if t.name))


@row(*NARY)
def broadcast(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """All inputs are aligned by broadcasting (onnx/docs/Broadcasting.md)."""
    operands = [v for v in inputs if v is not None]
    return [aligned(trace, node, operands[:1] if node.op == "CastLike" else operands)]


def aligned(trace: Trace, node: gs.Node, operands: list[Value]) -> Value:
    """The broadcast of several values."""
    shape = np.broadcast_shapes(*(v.shape for v in operands))
    rank = len(shape)
    axes = [aligned_axis(trace, node, _at(trace, node, operands, axis - rank, shape[axis])) for axis in range(rank)]
    return Value(tuple(shape), tuple(axes), static=all(v.static for v in operands))


def _at(trace: Trace, node: gs.Node, operands: list[Value], axis: int, size: int) -> list[Factors]:
    """The factors of the operands that vary along an axis (counted from the end); a single neuron that is spread over
    a longer axis has to stay."""
    found = []
    for value in operands:
        if len(value.shape) >= -axis:
            if value.shape[axis] == size:
                found.append(value.factors[axis])
            else:
                trace.pin(value.factors[axis], f"spread by {describe(node)}")
    return found


def aligned_axis(trace: Trace, node: gs.Node, participants: list[Factors]) -> Factors:
    """Tie the axis of every participant; returns the factors of the first that has any.

    Where one participant has none, positions there are plain numbers (tokens, pixels), and so is the result.
    """
    carrier: Factors = next((f for f in participants if f), ())
    if carrier:
        for factors in participants:
            if factors is not carrier:
                trace.tie(node, carrier, factors)
    return carrier if all(participants) else ()


@row("Softmax", "LogSoftmax", "Hardmax")
def softmax(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Neurons that compete in a softmax cannot be dropped without changing the others."""
    value, rank = first(node, inputs), len(first(node, inputs).shape)
    flat = opset(trace.model) < SOFTMAX_OF_ONE_AXIS
    axis = int(node.attrs.get("axis", 1 if flat else -1)) % rank
    trace.note("softmax", node, [value], axis)
    for each in range(axis, rank) if flat else (axis,):
        trace.pin(value.axis(each), f"normalised by {describe(node)}")
    return [Value(value.shape, value.factors)]


@row("CumSum")
def cumulative(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    value = first(node, inputs)
    if inputs[1] is not None and inputs[1].data is not None:
        trace.pin(value.axis(int(inputs[1].data.reshape(-1)[0])), f"accumulated by {describe(node)}")
    return [Value(value.shape, value.factors)]
