"""Arithmetic, activations, comparison, logic, casts."""

from __future__ import annotations

import numpy as np
import onnx

from tests.pytorch.cases.case import MICROSOFT, Case, cases, floats, ints

X = floats(2, 3, 4)
UNIT = floats(2, 3, 4, low=-0.9, high=0.9)
POSITIVE = floats(2, 3, 4, low=1.1, high=3.0)
MIXED = np.array([[1.0, np.nan, -np.inf], [np.inf, 0.0, -2.5]], np.float32)
TRUTH = np.array([[True, False, True], [False, False, True]])

DOMAINS = {
    **dict.fromkeys(("Acos", "Asin", "Atanh"), UNIT),
    **dict.fromkeys(("Acosh", "Log", "Sqrt"), POSITIVE),
    **dict.fromkeys(("IsNaN", "IsInf"), MIXED),
    "Not": TRUTH,
    "BitwiseNot": np.array([[1, -5, 7]], np.int32),
    "Round": np.array([0.5, 1.5, 2.5, -0.5, -1.2], np.float32),
}
UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor IsNaN IsInf Log Mish Neg Not "
    "Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh HardSwish Swish Elu Celu Selu "
    "HardSigmoid LeakyRelu ThresholdedRelu Shrink Identity Dropout Gelu"
).split()


def _unary() -> list[Case]:
    return [case for op in UNARY for case in cases(op, DOMAINS.get(op, X))]


def _binary() -> list[Case]:
    found: list[Case] = []
    row, single = floats(4, low=0.5, high=2.0), np.float32(0.75)
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        for other in (row, floats(2, 3, 4), single, np.array([0.75], np.float32)):
            found += cases(op, X, other, constant=(1,))
            found += cases(op, other, X, constant=(0,))
        found += cases(op, X, row)
        found += cases(op, ints(7, -7, 9), ints(2, 2, -4), since=13)
        found += cases(op, ints(7, -7, 9), np.int64(2), constant=(1,), since=13)
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        found += cases(op, ints(1, 2, 3), ints(3, 2, 1), since=9)
        found += cases(op, ints(1, 2, 3), np.int64(2), constant=(1,), since=9)
        found += cases(op, np.int64(2), ints(1, 2, 3), constant=(0,), since=9)
        found += cases(op, np.array([1, 2, 3], np.int32), np.array([3, 2, 1], np.int32), since=9)
        if op != "Equal":
            found += cases(op, X, floats(4), until=8)
    found += cases("Equal", ints(1, 2, 3), ints(3, 2, 1), until=8)
    for op in ("And", "Or", "Xor"):
        found += cases(op, TRUTH, np.array([True, True, False]))
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        found += cases(op, ints(12, 7, -3), ints(10, 3, 5))
    for op in ("Sum", "Mean", "Max", "Min"):
        found += cases(op, X, floats(4), floats(3, 1))
    return found


def _precise() -> list[Case]:
    """Numbers on the left keep their type and all of its digits."""
    exact, half = np.array([0.1, 0.7, 3.0]), np.array([0.5, 2.0, 3.0], np.float16)
    found: list[Case] = []
    for op in ("Sub", "Add", "Mul", "Div", "Greater", "Less"):
        found += cases(op, np.float64(0.7), exact, constant=(0,), since=9)
    for base in (np.float16(3), np.float64(0.7), np.float32(2.5)):
        found += cases("Pow", base, exact.astype(base.dtype), constant=(0,))
    found += cases("Pow", np.int64(3), ints(1, 0, 2), constant=(0,), since=12)
    found += cases("Pow", np.float64(0.7), ints(1, 2, 3), constant=(0,), since=12)
    found += cases("Pow", ints(2, 3), np.float32(2.5), constant=(1,), since=12)
    found += cases("Div", np.int64(7), ints(2, -2, 3), constant=(0,))
    return [*found, *cases("Sub", np.float16(0.7), half, constant=(0,))]


def _others() -> list[Case]:
    mask = X > 0
    return [
        *cases("Mod", ints(7, -7, 9), ints(3, 3, -4)),
        *cases("Mod", X, floats(2, 3, 4, low=0.5), fmod=1),
        *cases("Pow", X, np.float32(2.0), constant=(1,)),
        *cases("Pow", X, np.float32(3.0), constant=(1,)),
        *cases("Pow", POSITIVE, np.float32(0.5), constant=(1,)),
        *cases("Pow", POSITIVE, floats(4)),
        *cases("Pow", np.float32(1.7), X, constant=(0,)),
        *cases("Pow", POSITIVE, ints(2, 3, 1, 2), since=13),
        *cases("Where", mask, X, floats(4)),
        *cases("Where", mask, X, np.float32(0.0), constant=(2,)),
        *cases("Where", mask, np.float32(0.0), np.float32(-np.inf), constant=(1, 2)),
        *cases("Clip", X, until=6, min=-0.5, max=0.7),
        *cases("Clip", X, np.float32(-0.5), np.float32(0.7), constant=(1, 2), since=11),
        *cases("Clip", X, None, np.float32(0.7), constant=(2,), since=11),
        *cases("Clip", X, None, None, since=11),
        *cases("Cast", X, to=onnx.TensorProto.INT64),
        *cases("Cast", X, to=onnx.TensorProto.BOOL),
        *cases("Cast", X, to=onnx.TensorProto.FLOAT16),
        *cases("Cast", ints(1, 0, 5), to=onnx.TensorProto.FLOAT),
        *cases("CastLike", X, np.float64(0.0)),
        *cases("IsInf", MIXED, detect_negative=0),
        *cases("IsInf", MIXED, detect_positive=0),
        *cases("Gelu", X, approximate="tanh", since=20),
        *cases("Gelu", X, domain=MICROSOFT),
        *cases("BiasGelu", X, floats(4), domain=MICROSOFT, constant=(1,)),
        *cases("FastGelu", X, floats(4), domain=MICROSOFT, constant=(1,)),
        *cases("FastGelu", X, domain=MICROSOFT),
        *cases("QuickGelu", X, domain=MICROSOFT, alpha=1.702),
        *cases("HardSigmoid", X, alpha=0.3, beta=0.4),
        *cases("LeakyRelu", X, alpha=0.2),
        *cases("PRelu", X, floats(4)),
        *cases("Elu", X, alpha=0.7),
        *cases("Celu", X, alpha=0.7),
        *cases("Swish", X, alpha=1.5),
        *cases("Shrink", X, bias=0.1, lambd=0.7),
    ]


CASES = [*_unary(), *_binary(), *_precise(), *_others()]
