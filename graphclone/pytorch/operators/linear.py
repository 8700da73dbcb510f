"""Matrix products: what multiplies by weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphclone.pytorch.operators.rows import CONTRIB, Call, row

ACTIVATIONS: dict[str, Callable[[Any, Call], Any]] = {
    "Relu": lambda x, call: torch.relu(x),
    "Sigmoid": lambda x, call: torch.sigmoid(x),
    "Tanh": lambda x, call: torch.tanh(x),
    "LeakyRelu": lambda x, call: torch.nn.functional.leaky_relu(x, call.attr("activation_alpha", 0.01)),
}


@row("MatMul", 1, 9, 13)
def matmul(call: Call, a: Any, b: Any) -> Any:
    return torch.matmul(a, b)


@row("Gemm", 7, 9, 11, 13, biases=(2,))
def gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    """alpha * A' B' + beta * C; with a bias vector it is one fused addmm."""
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    a = a.t() if call.attr("transA", 0) else a
    b = b.t() if call.attr("transB", 0) else b
    if c is None:
        return torch.mm(a, b) if alpha == 1.0 else torch.mm(a, b) * alpha
    if alpha == 1.0 and beta == 1.0:
        return torch.addmm(c, a, b)
    return torch.addmm(c, a, b, alpha=alpha, beta=beta)


@row("FusedGemm", 1, domain=CONTRIB, biases=(2,))
def fused_gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    """Gemm, then the activation that it names (onnxruntime contrib)."""
    activation = call.attr("activation", "")
    if activation not in ACTIVATIONS:
        raise call.refuse(f"the activation {activation!r}")
    return ACTIVATIONS[activation](gemm(call, a, b, c), call)


@row("FusedMatMul", 1, domain=CONTRIB)
def fused_matmul(call: Call, a: Any, b: Any) -> Any:
    """Transposes swap the last two axes; transBatch moves the first axis to before the last (onnxruntime contrib)."""
    a = a.movedim(0, -2) if call.attr("transBatchA", 0) else a
    b = b.movedim(0, -2) if call.attr("transBatchB", 0) else b
    a = a.transpose(-1, -2) if call.attr("transA", 0) else a
    b = b.transpose(-1, -2) if call.attr("transB", 0) else b
    alpha = call.attr("alpha", 1.0)
    return torch.matmul(a, b) if alpha == 1.0 else torch.matmul(a, b) * alpha


@row("Einsum", 12)
def einsum(call: Call, *xs: Any) -> Any:
    return torch.einsum(call.attr("equation"), *xs)
