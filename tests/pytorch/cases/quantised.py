"""Integers that stand for numbers."""

from __future__ import annotations

import numpy as np

from tests.pytorch.cases.case import MICROSOFT, Case, cases, floats

X = floats(2, 3, 4)
SCALE = np.float32(0.013)
SCALES = floats(4, low=0.005, high=0.05)
SIGNED = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4)
BYTES = np.arange(100, 124, dtype=np.uint8).reshape(2, 3, 4)
LONG = {"since": 13}  # an axis is an attribute since 13, a block since 21
TOO_MANY = np.arange(-64, 64, dtype=np.int8).reshape(32, 4)  # stays bytes: more than take part in shapes


def _back() -> list[Case]:
    return [
        *cases("DequantizeLinear", SIGNED, SCALE, constant=(1,)),
        *cases("DequantizeLinear", BYTES, SCALE, np.uint8(128), constant=(1, 2)),
        *cases("DequantizeLinear", BYTES, SCALES, np.arange(4, dtype=np.uint8), constant=(1, 2), axis=-1, **LONG),
        *cases("DequantizeLinear", SIGNED, SCALES[:3], np.zeros(3, np.int8), constant=(0, 1, 2), axis=1, **LONG),
        *cases("DequantizeLinear", TOO_MANY, SCALES, np.zeros(4, np.int8), constant=(0, 1, 2), axis=1, **LONG),
        *cases(
            "DequantizeLinear",
            SIGNED,
            floats(2, 2, 4, low=0.01, high=0.1),
            np.ones((2, 2, 4), np.int8),
            since=21,
            constant=(1, 2),
            axis=1,
            block_size=2,
        ),
        *cases("DequantizeLinear", SIGNED.astype(np.int32), SCALE, constant=(1,)),
        *cases("DequantizeLinear", SIGNED, SCALE, np.int8(3), domain=MICROSOFT, constant=(1, 2)),
    ]


def _there() -> list[Case]:
    halves = (np.arange(-8, 8, dtype=np.float32) + 0.5) * np.float32(0.5)
    return [
        *cases("QuantizeLinear", X, SCALE, constant=(1,)),
        *cases("QuantizeLinear", X, SCALE, np.int8(-7), constant=(1, 2)),
        *cases("QuantizeLinear", halves, np.float32(0.5), np.int8(0), constant=(1, 2)),
        *cases("QuantizeLinear", X, SCALES, np.arange(4, dtype=np.uint8), constant=(1, 2), axis=2, **LONG),
        *cases("QuantizeLinear", X, SCALES[:3], np.zeros(3, np.int8), constant=(1, 2), axis=-2, **LONG),
        *cases("QuantizeLinear", X, SCALE, constant=(1,), since=21, output_dtype=3),
        *cases("QuantizeLinear", X, SCALE, np.uint8(100), domain=MICROSOFT, constant=(1, 2)),
        *cases("DynamicQuantizeLinear", X, outputs=3),
        *cases("DynamicQuantizeLinear", np.abs(X) + 1, outputs=3),
        *cases("DynamicQuantizeLinear", -np.abs(X), outputs=3),
        *cases("DynamicQuantizeLinear", np.zeros((2, 3), np.float32), outputs=3),
    ]


def _products() -> list[Case]:
    a, b = BYTES, np.arange(-10, 10, dtype=np.int8).reshape(4, 5)
    columns = np.arange(-2, 3, dtype=np.int8)
    return [
        *cases("MatMulInteger", a, b, constant=(1,)),
        *cases("MatMulInteger", a, b, np.uint8(110), np.int8(3), constant=(1, 2, 3)),
        *cases("MatMulInteger", a[0], b, np.uint8(110), columns, constant=(1, 2, 3)),
        *cases("MatMulInteger", a, TOO_MANY.reshape(4, 32), np.uint8(110), constant=(1, 2)),
    ]


CASES: list[Case] = [*_back(), *_there(), *_products()]
