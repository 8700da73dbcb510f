"""Integers with scales and zero points."""

from __future__ import annotations

import numpy as np

from tests.anatomy.flow_cases.case import MICROSOFT, Case, case, floats, node, positive


def integers(*shape: int, dtype=np.int8) -> np.ndarray:
    """Distinct, none zero."""
    values = np.arange(1, np.prod(shape) + 1) * 3
    return np.random.default_rng(0).permutation(values).reshape(shape).astype(dtype)


NOTED = {("a", 1): "noted", ("b", 0): "noted"}
STEP = np.array(0.01, np.float32)
EXTREMES = np.array([[-9, 9], [-9, 9]], np.float32)  # fed, so that no neuron decides the scale

CASES = [
    case("by tensor", "DequantizeLinear", {"x": integers(3, 4), "s": STEP}),
    case(
        "by channel", "DequantizeLinear", {"x": integers(3, 4), "s": positive(4), "z": integers(4) + np.int8(1)}, axis=1
    ),
    case("by row", "DequantizeLinear", {"x": integers(3, 4), "s": positive(3)}, axis=0),
    case("a bias", "DequantizeLinear", {"x": integers(4, dtype=np.int32), "s": positive(4)}, axis=0),
    Case(  # of a constant, these are floats before they are traced
        "DequantizeLinear by block",
        (
            node("Identity", ["x"], ["same"]),
            node("DequantizeLinear", ["same", "s"], axis=1, block_size=2),
        ),
        {"x": integers(3, 6), "s": positive(3, 3)},
        special={("x", 1): "some"},
    ),
    Case(  # whose last block is shorter: 4 + 1 numbers, not 3 + 2
        "DequantizeLinear by uneven block",
        (
            node("Identity", ["x"], ["same"]),
            node("DequantizeLinear", ["same", "s"], axis=1, block_size=4),
        ),
        {"x": integers(3, 5), "s": positive(3, 2)},
        special={("x", 1): "some"},
    ),
    case("", "DequantizeLinear", {"x": integers(3, 4), "s": STEP}, domain=MICROSOFT),
    case("by tensor", "QuantizeLinear", {"x": floats(3, 4), "s": STEP}),
    case("by channel", "QuantizeLinear", {"x": floats(3, 4), "s": positive(4) / 50}, axis=1),
    case("", "QuantizeLinear", {"x": floats(3, 4), "s": STEP, "z": np.array(7, np.uint8)}, domain=MICROSOFT),
    Case(
        "DynamicQuantizeLinear",
        (node("Concat", ["x", "e"], ["whole"], axis=1), node("DynamicQuantizeLinear", ["whole"], ["y", "s", "z"])),
        {"x": floats(2, 3)},
        {"e": EXTREMES},
        {("x", 0): "pinned"},
    ),
    case("", "MatMulInteger", {"a": integers(2, 4), "b": integers(4, 3)}, NOTED),
    case(
        "with zero points",
        "MatMulInteger",
        {"a": integers(2, 4), "b": integers(4, 3), "za": np.array(3, np.int8), "zb": integers(3)},
        NOTED,
    ),
]
