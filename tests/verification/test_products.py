"""Products of integers are whole on every CPU: held against NumPy's, which are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphclone import graph
from graphclone.verification.products import unsigned
from graphclone.verification.sessions import open_session
from tests.tiny_models import assemble, info, make

ROWS, INNER, COLUMNS = 4, 64, 32
DRAWN = np.random.default_rng(0)
X = 3 * DRAWN.normal(size=(ROWS, INNER)).astype(np.float32)
WEIGHT = DRAWN.integers(-128, 128, (INNER, COLUMNS), dtype=np.int8)  # all of the range: of less nothing saturates
ZEROS = {
    "none": None,
    "one": np.int8(3),
    "by column": DRAWN.integers(-9, 9, COLUMNS, dtype=np.int8),
}


def product(zero: np.ndarray | np.int8 | None) -> graph.Model:
    held = {"w": WEIGHT} | ({} if zero is None else {"wz": np.asarray(zero)})
    nodes = [
        make("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        make("MatMulInteger", ["q", "w", "z", *(["wz"] if zero is not None else [])], ["i"]),
        make("Cast", ["i"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    byte = onnx.TensorProto.UINT8
    outputs = [info("y", shape=(ROWS, COLUMNS)), info("q", byte, (ROWS, INNER)), info("z", byte, ())]
    return graph.from_proto(assemble(nodes, held, inputs=[info("x", shape=(ROWS, INNER))], outputs=outputs))


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("zero", ZEROS.values(), ids=ZEROS)
def test_products_are_numpys(zero, optimise):
    found = open_session(product(zero), optimise=optimise).run({"x": X})
    left = found["q"].astype(np.int64) - int(found["z"])
    right = WEIGHT.astype(np.int64) - (0 if zero is None else zero)
    assert np.array_equal(found["y"], (left @ right).astype(np.float32))


def test_the_model_that_was_given_keeps_its_bytes():
    model = product(np.int8(3))
    twin = unsigned(model)
    assert {str(a.dtype) for a in model.constants().values()} == {"int8"}
    assert {str(a.dtype) for a in twin.constants().values()} == {"uint8"}
    assert unsigned(twin) is twin
