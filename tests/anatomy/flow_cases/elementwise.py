"""Elementwise operators, and softmax."""

from __future__ import annotations

import numpy as np
import onnx

from graphclone.anatomy.flows.elementwise import UNARY
from tests.anatomy.flow_cases.case import MICROSOFT, Case, case, floats, node, positive

ODD = {  # unary operators that want something of their own
    "Cast": {"to": onnx.TensorProto.FLOAT16},
    "IsNaN": {"perturbed": np.nan},
    "IsInf": {"perturbed": np.inf},
    "Swish": {"alpha": 1.5},
}
DOMAIN = dict.fromkeys(("Log", "Sqrt", "Acos", "Asin"), positive) | dict.fromkeys(
    ("Round", "Shrink", "ThresholdedRelu"), lambda *shape: 9 * floats(*shape)
)
UNARY_CASES = [case("", op, {"x": DOMAIN.get(op, floats)(2, 3)}, **ODD.get(op, {})) for op in UNARY if op != "Not"]


def binary(op, b=None, **more):
    return case("of two", op, {"a": floats(2, 3), "b": floats(3)[::-1] if b is None else b}, **more)


SIGNS = np.array([[1, -1, 2], [-2, 1, -1]], np.float32)


def compared(op):
    """Logic on what a comparison of neurons gives."""
    first = node("Greater", ["a", "zero"], ["p"])
    held = {"a": SIGNS, "zero": np.zeros((), np.float32)}
    if op == "Not":
        return Case("Not of a comparison", (first, node("Not", ["p"])), held)
    second = node("Greater", ["b", "zero"], ["q"])
    held["b"] = SIGNS[0, ::-1] * np.float32([1, -1, -1])
    some = dict.fromkeys([("a", 0), ("a", 1), ("b", 0)], "some")
    return Case(f"{op} of comparisons", (first, second, node(op, ["p", "q"])), held, special=some)


EXTREME = dict.fromkeys([("a", 0), ("a", 1), ("b", 0)], "some")
BYTES = np.array([[1, 2, 3], [5, 6, 7]], np.uint8)
NARY_CASES = [
    *(binary(op) for op in ("Add", "Sub", "Mul", "Div", "Mean", "Sum")),
    *(binary(op, special=EXTREME) for op in ("Max", "Min", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    binary("Equal", b=floats(2, 3)[0], special=EXTREME, perturbed=floats(2, 3)[0, 0]),
    binary("Mod", special=EXTREME, fmod=1),
    binary("Pow", special=EXTREME),
    *(compared(op) for op in ("And", "Or", "Xor", "Not")),
    *(
        case("of bytes", op, {"a": BYTES, "b": BYTES[:1]}, EXTREME | {("b", 1): "some"})
        for op in ("BitwiseAnd", "BitwiseOr")
    ),
    case("slopes", "PRelu", {"x": floats(2, 3), "slope": floats(3)}, {("slope", 0): "some"}),
    case("", "CastLike", {"x": floats(2, 3), "like": np.zeros(1, np.float16)}),
    Case(
        "Where a comparison chooses",
        (node("Greater", ["a", "zero"], ["p"]), node("Where", ["p", "b", "c"])),
        {"a": SIGNS, "b": positive(3), "c": -positive(2, 3), "zero": np.zeros((), np.float32)},
        special={(name, axis): "some" for name in "abc" for axis in (0, 1)},
    ),
    case(
        "a mask chooses",
        "Where",
        {"m": np.array([[1, 0, 1], [0, 1, 0]], bool), "a": floats(2, 3), "b": positive(3)},
        {("a", 0): "pinned", ("a", 1): "pinned", ("b", 0): "pinned"},
    ),
    case("three", "Sum", {"a": floats(2, 3), "b": floats(3), "c": floats(2, 1)}),
    case("meets numbers", "Add", {"a": floats(2, 3)}, {("a", 0): "pinned", ("a", 1): "pinned"}, {"n": floats(2, 3)}),
    case("last axis", "Softmax", {"x": floats(2, 3)}, {("x", 1): "pinned"}),
    case("first axis", "LogSoftmax", {"x": floats(2, 3)}, {("x", 0): "pinned"}, axis=0),
    case("", "Hardmax", {"x": floats(2, 3)}, {("x", 1): "pinned", ("x", 0): "some"}),
    case("", "CumSum", {"x": floats(2, 3), "axis": np.array(1)}, {("x", 1): "pinned"}),
]
GELU_CASES = [case("", op, {"x": floats(2, 3)}, domain=MICROSOFT) for op in ("Gelu", "QuickGelu", "FastGelu")] + [
    case("with bias", op, {"x": floats(2, 3), "b": floats(3)}, domain=MICROSOFT) for op in ("FastGelu", "BiasGelu")
]

CASES = [*UNARY_CASES, *NARY_CASES, *GELU_CASES]
