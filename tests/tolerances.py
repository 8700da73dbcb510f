"""The one table of tolerances, by dtype, and the one way to hold two arrays against each other."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference allowed, in units of the larger of one and the largest magnitude expected."""


STATISTICS = 1e-6
"""Largest difference of a sum over activations from float64, in units of the sum of its terms' magnitudes."""


def difference(actual: Array, expected: Array) -> float:
    """The largest difference, in the unit of TOLERANCE; infinite where the two disagree on what is not finite."""
    wide, held = np.asarray(actual).astype(np.float64), np.asarray(expected).astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(held)):
        return float("inf")
    finite = np.isfinite(held)
    if not np.array_equal(wide[~finite], held[~finite], equal_nan=True):
        return float("inf")
    scale = max(1.0, float(np.abs(held[finite]).max(initial=0.0)))
    return float(np.abs(wide[finite] - held[finite]).max(initial=0.0)) / scale


def assert_close(actual: Array, expected: Array, dtype: str | None = None) -> None:
    """Same shape, and equal within the tolerance of ``dtype`` (by default, the dtype of ``expected``)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    allowed = TOLERANCE[dtype or expected.dtype.name]
    found = difference(actual, expected)
    assert found <= allowed, f"differs by {found:.3g}, allowed {allowed:.3g}"
