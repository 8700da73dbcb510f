"""Fused attention and rotary embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.pytorch.cases.case import MICROSOFT, Case, cases, floats, ints

B, S, N, K, D = 2, 5, 4, 2, 16
X = floats(B, S, N * D)
ANGLES = np.outer(np.arange(16), 10.0 ** -np.arange(D // 2)).astype(np.float32)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)
POSITIONS = ints([0, 1, 2, 3, 4], [3, 4, 5, 6, 7])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
HIDES_A_ROW = np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]], np.int32)  # ONNX Runtime lets it see all


def _contributed() -> list[Case]:
    weight, bias = floats(N * D, 3 * N * D, low=-0.3, high=0.3), floats(3 * N * D)
    q, k, v = floats(B, S, N * D), floats(B, S, N * D, low=-1.0), floats(B, S, N * D, low=-0.5)
    kk, vv = floats(B, S, K * D), floats(B, S, K * D, low=-1.0)
    past = floats(B, K, 0, D)
    last, total = np.array([S - 1, S - 1], np.int32), np.int32(S)
    grouped = {"domain": MICROSOFT, "num_heads": N, "kv_num_heads": K, "outputs": 3}
    return [
        *cases("Attention", X, weight, bias, domain=MICROSOFT, constant=(1, 2), num_heads=N),
        *cases("Attention", X, weight, bias, MASK, domain=MICROSOFT, constant=(1, 2), num_heads=N),
        *cases("Attention", X, weight, bias, HIDES_A_ROW, domain=MICROSOFT, constant=(1, 2), num_heads=N),
        *cases("Attention", X, weight, bias, domain=MICROSOFT, constant=(1, 2), num_heads=N, unidirectional=1),
        *cases("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=N),
        *cases("MultiHeadAttention", q, k, v, bias, domain=MICROSOFT, num_heads=N, constant=(3,), scale=0.2),
        *cases("MultiHeadAttention", q, k, v, None, MASK, domain=MICROSOFT, num_heads=N),
        *cases("MultiHeadAttention", q, k, v, None, None, floats(1, N, S, S), domain=MICROSOFT, num_heads=N),
        *cases("MultiHeadAttention", q, k, v, None, HIDES_A_ROW, domain=MICROSOFT, num_heads=N),
        *cases("MultiHeadAttention", q, k, v, None, np.array([2, 5], np.int32), domain=MICROSOFT, num_heads=N),
        *cases("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=N, unidirectional=1),
        *cases("MultiHeadAttention", q, k[:, :3], v[:, :3], domain=MICROSOFT, num_heads=N, unidirectional=1),
        *cases(
            "MultiHeadAttention", q, k, v, None, None, None, floats(B, N, 3, D), floats(B, N, 3, D, low=-1.0),
            domain=MICROSOFT, num_heads=N, unidirectional=1, outputs=3,
        ),
        *cases("GroupQueryAttention", q, kk, vv, past, past, last, total, **grouped),
        *cases(
            "GroupQueryAttention", q, kk, vv, past, past, last, total, COS, SIN, constant=(7, 8), do_rotary=1, **grouped
        ),
        *cases("GroupQueryAttention", q, kk, vv, past, past, last, total, **grouped, softcap=2.0),
        *cases("GroupQueryAttention", q, kk, vv, past, past, last, total, **grouped, local_window_size=2),
        *cases("GroupQueryAttention", q, kk, vv, past, past, last, total, **grouped, smooth_softmax=-1),
        *_steps(q, kk, vv, grouped),
        *cases("RotaryEmbedding", X, POSITIONS, COS, SIN, domain=MICROSOFT, constant=(2, 3)),
        *cases("RotaryEmbedding", X, POSITIONS, COS, SIN, domain=MICROSOFT, constant=(2, 3), interleaved=1),
        *cases("RotaryEmbedding", floats(B, N, S, D), ints(3), COS, SIN, domain=MICROSOFT, constant=(2, 3)),
    ]  # fmt: skip


def _steps(q: np.ndarray, k: np.ndarray, v: np.ndarray, grouped: dict[str, Any]) -> list[Case]:
    """One token behind a cache of which the rows hold as much as one another, or not, or none holds all it could."""
    step = [x[:, :1] for x in (q, k, v)]
    cache = floats(B, K, 6, D), floats(B, K, 6, D, low=-1.0)
    found: list[Case] = []
    for last, total in (([6, 6], 7), ([6, 3], 7), ([3, 1], 4)):
        operands = [*step, *cache, np.array(last, np.int32), np.int32(total)]
        found += cases("GroupQueryAttention", *operands, **grouped, local_window_size=3)
        found += cases("GroupQueryAttention", *operands, **grouped, softcap=2.0)
        found += cases("GroupQueryAttention", *operands, COS, SIN, constant=(7, 8), do_rotary=1, **grouped)
    return found


def _standard() -> list[Case]:
    few_q, few_k, few_v = floats(B, N, 3, D), floats(B, K, 3, D), floats(B, K, 3, D, low=-1.0)
    empty = np.tril(np.ones((S, S), bool), -1)
    q, k, v = floats(B, N, S, D), floats(B, K, S, D), floats(B, K, S, D, low=-1.0)
    flat = {"q_num_heads": N, "kv_num_heads": K}
    seen = np.tril(np.ones((S, S), bool))
    return [
        *cases("RotaryEmbedding", q, COS, SIN, POSITIONS, constant=(1, 2), since=23),
        *cases("RotaryEmbedding", X, COS, SIN, POSITIONS, constant=(1, 2), since=23, num_heads=N, interleaved=1),
        *cases("Attention", q, k, v),
        *cases("Attention", q, k, v, is_causal=1),
        *cases("Attention", few_q, k, v, is_causal=1),
        *cases("Attention", q, few_k, few_v, is_causal=1),
        *cases("Attention", few_q, k, v, floats(3, S), is_causal=1),
        *cases("Attention", q, k, v, None, few_k, few_v, is_causal=1, outputs=3),
        *cases("Attention", q, k, v, seen, scale=0.3),
        *cases("Attention", q, k, v, empty),
        *cases("Attention", q, k, v, softcap=0.5),
        *cases("Attention", q, k, v, empty, softcap=0.5, scale=0.3),
        *cases("Attention", q, k, v, floats(S, S), softcap=0.5, is_causal=1),
        *cases("Attention", q, k, v, floats(S, S), is_causal=1),
        *cases("Attention", X, floats(B, S, K * D), floats(B, S, K * D, low=-1.0), **flat),
    ]


CASES = [*_contributed(), *_standard()]
