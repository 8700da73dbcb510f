"""The comparer must be able to fail."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.tolerances import TOLERANCE, assert_close

DTYPES = {name: getattr(ml_dtypes, name, None) or np.dtype(name) for name in TOLERANCE}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("magnitude", [0.01, 1.0, 1000.0])
def test_a_perturbed_array_is_caught_and_a_nearly_equal_one_is_not(name, magnitude, rng):
    expected = (magnitude * np.clip(rng.standard_normal((3, 5)), -2, 2)).astype(np.float64)
    scale = max(1.0, np.abs(expected).max())
    for factor, equal in ((0.2, True), (4.0, False)):
        spoiled = expected.copy()
        spoiled[1, 2] += factor * TOLERANCE[name] * scale
        if equal:
            assert_close(spoiled, expected, name)
        else:
            with pytest.raises(AssertionError, match="differs"):
                assert_close(spoiled, expected, name)


@pytest.mark.parametrize("name", DTYPES)
def test_the_dtype_of_what_is_expected_chooses_the_tolerance(name):
    expected = np.ones(4, DTYPES[name])
    actual = np.ones(4) * (1 + 0.5 * TOLERANCE[name])
    assert_close(actual, expected)
    with pytest.raises(AssertionError, match="allowed"):
        assert_close(1 + 2 * (actual - 1) + TOLERANCE[name], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_caught(bad):
    expected = np.zeros(3, np.float32)
    actual = expected.copy()
    actual[0] = bad
    with pytest.raises(AssertionError, match="inf"):
        assert_close(actual, expected)
    assert_close(actual, actual)


def test_another_shape_is_caught():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32))
