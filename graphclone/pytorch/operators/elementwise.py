"""Element by element: arithmetic, activations, comparison, logic, casts."""

from __future__ import annotations

import math
import operator
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.operators.quantised import as_numbers
from graphclone.pytorch.operators.rows import CONTRIB, Call, row
from graphclone.pytorch.values import Symbol, Value

UNARY: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("Abs", (6, 13), torch.abs),
    ("Acos", (7, 22), torch.acos),
    ("Acosh", (9, 22), torch.acosh),
    ("Asin", (7, 22), torch.asin),
    ("Asinh", (9, 22), torch.asinh),
    ("Atan", (7, 22), torch.atan),
    ("Atanh", (9, 22), torch.atanh),
    ("BitwiseNot", (18,), torch.bitwise_not),
    ("Ceil", (6, 13), torch.ceil),
    ("Cos", (7, 22), torch.cos),
    ("Cosh", (9, 22), torch.cosh),
    ("Erf", (9, 13), torch.erf),
    ("Exp", (6, 13), torch.exp),
    ("Floor", (6, 13), torch.floor),
    ("IsNaN", (9, 13, 20), torch.isnan),
    ("Log", (6, 13), torch.log),
    ("Mish", (18, 22), F.mish),
    ("Neg", (6, 13), torch.neg),
    ("Not", (1,), torch.logical_not),
    ("Reciprocal", (6, 13), torch.reciprocal),
    ("Relu", (6, 13, 14), torch.relu),
    ("Round", (11, 22), torch.round),
    ("Sigmoid", (6, 13), torch.sigmoid),
    ("Sign", (9, 13), torch.sign),
    ("Sin", (7, 22), torch.sin),
    ("Sinh", (9, 22), torch.sinh),
    ("Softplus", (1, 22), F.softplus),
    ("Softsign", (1, 22), F.softsign),
    ("Sqrt", (6, 13), torch.sqrt),
    ("Tan", (7, 22), torch.tan),
    ("Tanh", (6, 13), torch.tanh),
)
BINARY: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("Add", (7, 13, 14), torch.add),
    ("Sub", (7, 13, 14), torch.sub),
    ("Equal", (7, 11, 13, 19), torch.eq),
    ("Greater", (7, 9, 13), torch.gt),
    ("GreaterOrEqual", (12, 16), torch.ge),
    ("Less", (7, 9, 13), torch.lt),
    ("LessOrEqual", (12, 16), torch.le),
)
LOGICAL: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("And", (7,), torch.logical_and),
    ("Or", (7,), torch.logical_or),
    ("Xor", (7,), torch.logical_xor),
    ("BitwiseAnd", (18,), torch.bitwise_and),
    ("BitwiseOr", (18,), torch.bitwise_or),
    ("BitwiseXor", (18,), torch.bitwise_xor),
)
VARIADIC: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("Max", (8, 12, 13), torch.maximum),
    ("Min", (8, 12, 13), torch.minimum),
    ("Sum", (8, 13), torch.add),
)


def _register_tables() -> None:
    for op, since, function in UNARY:
        row(op, *since)(lambda call, x, f=function: f(x))
    for op, since, function in BINARY:
        row(op, *since, scalars=True)(lambda call, a, b, f=function: _binary(f, a, b))
    for op, since, function in LOGICAL:
        row(op, *since)(lambda call, a, b, f=function: f(a, b))
    for op, since, function in VARIADIC:
        row(op, *since)(lambda call, *xs, f=function: reduce(f, xs))


MIRRORED = {
    torch.gt: torch.lt,
    torch.lt: torch.gt,
    torch.ge: torch.le,
    torch.le: torch.ge,
    torch.sub: lambda b, a: operator.sub(a, b),  # Python's own takes a number on the left
}


def is_number(a: Any) -> bool:
    """Of Python's, known or not until the module runs."""
    held = a.example if isinstance(a, Symbol) else a
    return isinstance(held, (int, float))


def _binary(function: Any, a: Any, b: Any) -> Any:
    """torch wants a tensor on the left; a number there keeps its precision, which a tensor of float32 would not."""
    return MIRRORED.get(function, function)(b, a) if is_number(a) else function(a, b)


_register_tables()


@row("Mul", 7, 13, 14, scalars=True)
def multiply(call: Call, a: Any, b: Any) -> Any:
    """Exporters leave factors of 1, such as an attention scaling."""
    if _is_one(a) or _is_one(b):
        return b if _is_one(a) else a
    for gate, x in ((a, b), (b, a)):
        if _is_sigmoid_of(gate, x):
            return F.silu(x)
    return _binary(torch.mul, a, b)


def _is_sigmoid_of(gate: Any, x: Any) -> bool:
    """x * sigmoid(x) is how every exporter writes SiLU; one call keeps one tensor less for the gradient."""
    if not (isinstance(gate, Symbol) and isinstance(x, Symbol)):
        return False
    return gate.node.target is torch.sigmoid and gate.node.args[0] is x.node


def _is_one(a: Any) -> bool:
    return isinstance(a, (int, float)) and a == 1


@row("Div", 7, 13, 14, scalars=True)
def divide(call: Call, a: Any, b: Any) -> Any:
    """Integers truncate towards zero (onnx Div-14)."""
    dtype = call.dtype(call.inputs[0])
    if dtype.is_floating_point:
        return a / b
    return torch.div(_as_tensor(call, a, dtype), b, rounding_mode="trunc")


def _as_tensor(call: Call, a: Any, dtype: torch.dtype) -> Any:
    return call.recorder.call(torch.tensor, a, dtype=dtype, device=call.recorder.device) if is_number(a) else a


@row("Mod", 10, 13)
def modulo(call: Call, a: Value, b: Value) -> Any:
    return torch.fmod(a, b) if call.attr("fmod", 0) else torch.remainder(a, b)  # type: ignore[arg-type]


@row("Pow", 7, 12, 13, 15, scalars=True)
def power(call: Call, x: Any, exponent: Any) -> Any:
    """The result has the type of the base; a small whole exponent is written as such, which autograd likes."""
    base, raises = (call.dtype(v) for v in call.inputs)
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)
    x = _as_tensor(call, x, base)
    if isinstance(exponent, float) and not base.is_floating_point:
        return torch.pow(x.double(), exponent).to(base)
    raised = torch.pow(x, exponent)
    return raised if is_number(exponent) or raises == base else raised.to(base)


@row("Mean", 8, 13)
def mean(call: Call, *xs: Any) -> Any:
    return reduce(torch.add, xs) / len(xs)


@row("Where", 9, 16, scalars=True)
def where(call: Call, condition: Any, x: Any, y: Any) -> Any:
    """Between two numbers the result's type is that of the constants."""
    if isinstance(x, (int, float)) and isinstance(y, (int, float)):
        x = torch.tensor(x, dtype=call.dtype(call.inputs[1]))
    return torch.where(torch.tensor(condition) if isinstance(condition, bool) else condition, x, y)


@row("Clip", 6, 11, 12, 13, numbers=(1, 2))
def clip(call: Call, x: Any, low: list[Any] | None = None, high: list[Any] | None = None) -> Any:
    """Bounds: attributes before opset 11, scalar inputs since."""
    if call.version == 6:
        return torch.clamp(x, call.attr("min", -math.inf), call.attr("max", math.inf))
    lower, upper = (bound[0] if bound else None for bound in (low, high))
    return x if lower is None and upper is None else torch.clamp(x, lower, upper)


@row("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def cast(call: Call, x: Any) -> Any:
    wanted = call.torch_type(int(call.attr("to")))
    if wanted.is_floating_point:
        return as_numbers(call, x, wanted)
    return x if call.dtype(x) == wanted else x.to(wanted)


@row("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(call: Call, x: Any, like: Any) -> Any:
    return x.to(call.dtype(like))


@row("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def identity(call: Call, x: Any) -> Any:
    return x


@row("IsInf", 10, 20)
def is_inf(call: Call, x: Any) -> Any:
    positive, negative = call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    if not (positive or negative):
        return torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf(x) if positive else torch.isneginf(x)


@row("Gelu", 20)
def gelu(call: Call, x: Any) -> Any:
    return F.gelu(x, approximate=call.attr("approximate", "none"))


@row("Gelu", 1, domain=CONTRIB)
def contrib_gelu(call: Call, x: Any) -> Any:
    return F.gelu(x)


@row("BiasGelu", 1, domain=CONTRIB, biases=(1,))
def bias_gelu(call: Call, x: Any, bias: Any) -> Any:
    return F.gelu(x + bias)


@row("FastGelu", 1, domain=CONTRIB, biases=(1,))
def fast_gelu(call: Call, x: Any, bias: Any = None) -> Any:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@row("QuickGelu", 1, domain=CONTRIB)
def quick_gelu(call: Call, x: Any) -> Any:
    return x * torch.sigmoid(x * call.attr("alpha", 1.702))


@row("Swish", 24)
def swish(call: Call, x: Any) -> Any:
    alpha = call.attr("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@row("HardSwish", 14, 22)
def hard_swish(call: Call, x: Any) -> Any:
    return F.hardswish(x)


@row("HardSigmoid", 6, 22)
def hard_sigmoid(call: Call, x: Any) -> Any:
    return torch.clamp(x * call.attr("alpha", 0.2) + call.attr("beta", 0.5), 0, 1)


@row("LeakyRelu", 6, 16)
def leaky_relu(call: Call, x: Any) -> Any:
    return F.leaky_relu(x, call.attr("alpha", 0.01))


@row("PRelu", 7, 9, 16)
def prelu(call: Call, x: Any, slope: Any) -> Any:
    return torch.where(x < 0, x * slope, x)


@row("Elu", 6, 22)
def elu(call: Call, x: Any) -> Any:
    return F.elu(x, call.attr("alpha", 1.0))


@row("Celu", 12)
def celu(call: Call, x: Any) -> Any:
    return F.celu(x, call.attr("alpha", 1.0))


@row("Selu", 6, 22)
def selu(call: Call, x: Any) -> Any:
    alpha, gamma = call.attr("alpha", 1.67326319217681884765625), call.attr("gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, alpha)


@row("ThresholdedRelu", 10, 22)
def thresholded_relu(call: Call, x: Any) -> Any:
    return torch.where(x > call.attr("alpha", 1.0), x, 0.0)


@row("Shrink", 9)
def shrink(call: Call, x: Any) -> Any:
    bias, bound = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, 0.0))


@row("Dropout", 7, 10, 12, 13, 22, numbers=(1, 2))
def dropout(call: Call, x: Any, ratio: Any = None, training: list[Any] | None = None) -> Any:
    """Inference semantics: the value itself and a mask of ones. A graph in training mode is refused."""
    if training and training[0]:
        raise call.refuse("exported in training mode: export the model with model.eval()")
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(call.node.outputs) > 1 else x
