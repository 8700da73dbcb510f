"""Fused attention: queries and keys end in the scores, what goes on is their head."""

from __future__ import annotations

import numpy as np

from tests.anatomy.flow_cases.case import MICROSOFT, case, floats

LENGTH, HEADS, KV_HEADS, DIM = 3, 4, 2, 4
WIDE = 16  # ONNX Runtime rotates in GroupQueryAttention by 16 dimensions at least
HIDDEN, KV = HEADS * DIM, KV_HEADS * DIM


def tokens(*names):
    """What is attended to stays whole."""
    return {(name, 1): "pinned" for name in names}


QK = {("q", 2): "shared", ("k", 2): "shared"}
ADDED = {("s", 2): "pinned", ("s", 3): "pinned"}
TABLES = {"cos": floats(8, DIM // 2), "sin": floats(8, DIM // 2) * np.float32(0.5)}
WIDE_TABLES = {"cos": floats(8, WIDE // 2), "sin": floats(8, WIDE // 2) * np.float32(0.5)}
LOOKED_UP = {("cos", 0): "pinned", ("sin", 0): "pinned"}
GROUPED = {
    "q": floats(1, LENGTH, HEADS * WIDE),
    "k": floats(1, LENGTH, KV_HEADS * WIDE),
    "v": floats(1, LENGTH, KV_HEADS * WIDE),
}
CAUSAL = tokens("q", "k", "v") | {("q", 1): "some"}
COUNTS = {"s": np.array([LENGTH - 1], np.int32), "n": np.array(LENGTH, np.int32)}
NORM = {"x": floats(1, 2, 5), "skip": floats(1, 2, 5)[:, ::-1], "g": floats(5)}
SUMMED = {("x", 2): "noted", ("skip", 2): "noted"}


CASES = [
    case(
        "packed",
        "Attention",
        {"x": floats(1, LENGTH, 6), "w": floats(6, 3 * HIDDEN), "b": floats(3 * HIDDEN)},
        tokens("x") | {("x", 2): "noted", ("w", 0): "noted", ("w", 1): "shared", ("b", 0): "shared"},
        domain=MICROSOFT,
        num_heads=HEADS,
    ),
    case(
        "narrow values",
        "Attention",
        {"x": floats(1, LENGTH, 6), "w": floats(6, 2 * HIDDEN + 8), "b": floats(2 * HIDDEN + 8)},
        tokens("x") | {("x", 2): "noted", ("w", 0): "noted", ("w", 1): "shared", ("b", 0): "shared"},
        domain=MICROSOFT,
        num_heads=HEADS,
        qkv_hidden_sizes=[HIDDEN, HIDDEN, 8],
    ),
    case(
        "",
        "MultiHeadAttention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, HIDDEN), "v": floats(1, 5, HIDDEN)},
        QK | tokens("k", "v"),
        domain=MICROSOFT,
        num_heads=HEADS,
    ),
    case(
        "with bias",
        "MultiHeadAttention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, HIDDEN), "v": floats(1, 5, HIDDEN), "b": floats(3 * HIDDEN)},
        QK | tokens("k", "v") | {("b", 0): "shared"},
        domain=MICROSOFT,
        num_heads=HEADS,
    ),
    case(
        "with scores added",
        "Attention",
        {"x": floats(1, LENGTH, 6), "w": floats(6, 3 * HIDDEN), "b": floats(3 * HIDDEN), "!m": 0, "!past": 0}
        | {"s": floats(1, HEADS, LENGTH, LENGTH)},
        tokens("x") | {("x", 2): "noted", ("w", 0): "noted", ("w", 1): "shared", ("b", 0): "shared"} | ADDED,
        domain=MICROSOFT,
        num_heads=HEADS,
    ),
    case(
        "with scores added",
        "MultiHeadAttention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, HIDDEN), "v": floats(1, 5, HIDDEN), "!b": 0, "!m": 0}
        | {"s": floats(1, HEADS, LENGTH, 5)},
        QK | tokens("k", "v") | ADDED,
        domain=MICROSOFT,
        num_heads=HEADS,
    ),
    case(
        "",
        "Attention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, KV), "v": floats(1, 5, KV)},
        QK | tokens("k", "v"),
        q_num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "with a mask of scores",
        "Attention",
        {
            "q": floats(1, LENGTH, HIDDEN),
            "k": floats(1, 5, KV),
            "v": floats(1, 5, KV),
            "s": floats(1, HEADS, LENGTH, 5),
        },
        QK | tokens("k", "v") | ADDED,
        q_num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "with a mask of every head, for all of a batch",
        "Attention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, KV), "v": floats(1, 5, KV), "s": floats(HEADS, LENGTH, 5)},
        QK | tokens("k", "v") | {("s", 1): "pinned", ("s", 2): "pinned"},
        q_num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "with a mask of tokens alone",
        "Attention",
        {"q": floats(1, LENGTH, HIDDEN), "k": floats(1, 5, KV), "v": floats(1, 5, KV), "s": floats(LENGTH, 5)},
        QK | tokens("k", "v") | {("s", 0): "pinned", ("s", 1): "pinned"},
        q_num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "by head",
        "Attention",
        {"q": floats(1, HEADS, LENGTH, DIM), "k": floats(1, KV_HEADS, 5, DIM), "v": floats(1, KV_HEADS, 5, DIM)},
        {("q", 3): "noted", ("k", 3): "noted", ("k", 2): "pinned", ("v", 2): "pinned"},
    ),
    case(
        "",
        "GroupQueryAttention",
        GROUPED | {"!past_k": 0, "!past_v": 0} | COUNTS,
        QK | CAUSAL,
        domain=MICROSOFT,
        outputs=("y", "present_k", "present_v"),
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "with rotation",
        "GroupQueryAttention",
        GROUPED | {"!past_k": 0, "!past_v": 0} | COUNTS | WIDE_TABLES,
        QK | CAUSAL | LOOKED_UP | {("cos", 1): "noted", ("sin", 1): "noted"},
        domain=MICROSOFT,
        outputs=("y", "present_k", "present_v"),
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=1,
    ),
    case(
        "with scores added and a sink",
        "GroupQueryAttention",
        GROUPED
        | {"!past_k": 0, "!past_v": 0}
        | COUNTS
        | {"!cos": 0, "!sin": 0, "!p": 0, "a": floats(1, HEADS, LENGTH, LENGTH), "sink": floats(HEADS)},
        QK | CAUSAL | {("a", 2): "pinned", ("a", 3): "pinned"},
        domain=MICROSOFT,
        outputs=("y", "present_k", "present_v"),
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    ),
    case(
        "",
        "RotaryEmbedding",
        {"x": floats(1, LENGTH, HIDDEN), "p": np.arange(LENGTH).reshape(1, -1)} | TABLES,
        LOOKED_UP,
        domain=MICROSOFT,
    ),
    case(
        "interleaved",
        "RotaryEmbedding",
        {"x": floats(1, HEADS, LENGTH, DIM), "p": np.arange(LENGTH).reshape(1, -1)} | TABLES,
        LOOKED_UP,
        domain=MICROSOFT,
        interleaved=1,
    ),
    case(
        "",
        "RotaryEmbedding",
        {"x": floats(1, HEADS, LENGTH, DIM)} | TABLES | {"p": np.arange(LENGTH).reshape(1, -1)},
        LOOKED_UP,
    ),
    case("", "SkipLayerNormalization", NORM | {"b": floats(5)}, SUMMED, domain=MICROSOFT),
    case(
        "with bias and sum",
        "SkipLayerNormalization",
        NORM | {"b": floats(5), "c": floats(5)[::-1]},
        SUMMED | {("c", 0): "noted"},
        domain=MICROSOFT,
        outputs=("y", "", "", "sum"),
    ),
    case("", "SkipSimplifiedLayerNormalization", NORM, SUMMED, domain=MICROSOFT),
    case(
        "",
        "EmbedLayerNormalization",
        {
            "ids": np.array([[3, 1]], np.int32),
            "types": np.array([[0, 1]], np.int32),
            "words": floats(4, 5),
            "places": floats(6, 5),
            "segments": floats(2, 5),
            "g": floats(5),
            "b": floats(5),
        },
        {(t, 0): "pinned" for t in ("words", "places", "segments")}
        | {(t, 1): "noted" for t in ("words", "places", "segments")},
        domain=MICROSOFT,
        outputs=("y", "mask"),
    ),
]
