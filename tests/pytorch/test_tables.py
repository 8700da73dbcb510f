"""Which constants are tables by their values alone, and which only look like some."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pytorch.test_weights import F32, I64, floats, made, roles


def test_cosine_and_sine_tables_are_not_weights_though_they_multiply_a_signal():
    angles = np.outer(np.arange(6), [1.0, 0.1, 0.01, 0.001]).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    assert read_by_position(cos, sin) == {}
    assert read_by_position(np.hstack([sin, cos]), floats(6, 8)) == {"sin": "matrix"}
    assert read_by_position(cos, floats(6, 4)) == {"cos": "matrix", "sin": "matrix"}


def read_by_position(cos, sin):
    nodes = [
        ("Gather", ["cos", "p"], ["c"], "", {}),
        ("Gather", ["sin", "p"], ["s"], "", {}),
        ("Mul", ["x", "c"], ["a"], "", {}),
        ("Mul", ["x", "s"], ["b"], "", {}),
        ("Add", ["a", "b"], ["y"], "", {}),
    ]
    inputs = [("x", F32, ["b", cos.shape[1]]), ("p", I64, ["b"])]
    return roles(made(nodes, inputs, {"cos": cos, "sin": sin}))


def near(value, *shape, by=0.002):
    return (value * (1 + by * floats(*shape))).astype(np.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (near(1, 8, 1, 1), near(1, 8, 1, 1)[::-1]),
        (near(1, 1, 1, 8), near(1, 1, 1, 8)[..., ::-1]),
        (near(1, 3, 8), near(1, 3, 8)[::-1]),
        (near(1e-7, 1, 1, 8, by=0.5), near(1e-7, 3, 8, by=0.5)),
        (np.sign(floats(3, 8)) * np.float32(0.03), np.sign(floats(8, 3).T) * np.float32(0.03)),
        (np.sign(floats(3, 8)) * np.float32(0.03), np.zeros((3, 8), np.float32)),
        (np.ones((3, 8), np.float32), np.zeros((3, 8), np.float32)),
    ],
)
def test_numbers_near_one_and_of_two_values_are_no_cosines(one, other):
    nodes = [("Mul", ["x", "one"], ["a"], "", {}), ("Mul", ["a", "other"], ["y"], "", {})]
    inputs = [("x", F32, ["b", 8, 3, 8])]
    assert roles(made(nodes, inputs, {"one": one, "other": other})).keys() == {"one", "other"}


def test_a_matrix_with_an_outlier_or_what_is_not_a_number_is_no_mask():
    outlier, broken = floats(16, 32), floats(32, 4)
    outlier[3, 5], broken[0, 0] = 2e4, np.nan
    large, table = floats(4, 4) * 1e6, floats(40, 4)
    table[7, 0] = -3e4
    nodes = [
        ("MatMul", ["x", "outlier"], ["a"], "", {}),
        ("MatMul", ["a", "broken"], ["b"], "", {}),
        ("Transpose", ["large"], ["l"], "", {}),
        ("MatMul", ["b", "l"], ["c"], "", {}),
        ("Gather", ["table", "p"], ["t"], "", {}),
        ("Add", ["c", "t"], ["y"], "", {}),
    ]
    constants = {"outlier": outlier, "broken": broken, "large": large, "table": table}
    found = roles(made(nodes, [("x", F32, ["b", 16]), ("p", I64, ["b"])], constants))
    assert found == dict.fromkeys(("outlier", "broken", "large", "table"), "matrix")


def test_masks_of_slopes_are_masks():
    slopes = np.arange(36, dtype=np.float32).reshape(6, 6) / 8
    for hidden in (-np.inf, np.finfo(np.float32).min):
        mask = np.where(np.tri(6, dtype=bool), -slopes, np.float32(hidden))
        nodes = [("Add", ["x", "mask"], ["s"], "", {}), ("Softmax", ["s"], ["y"], "", {})]
        assert roles(made(nodes, [("x", F32, ["b", 6, 6])], {"mask": mask})) == {}
