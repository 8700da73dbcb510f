"""Inputs that the file gives a value to."""

from __future__ import annotations

import numpy as np
import pytest

from graphclone import graph
from tests.tiny_models import WEIGHT, assemble, info, make


@pytest.mark.parametrize("ir_version", [3, 4])
def test_an_input_with_a_default_is_a_constant_and_said_so(ir_version):
    """Before IR 4 every initializer had to be an input."""
    nodes = [make("MatMul", ["x", "w"], ["z"]), make("Mul", ["z", "temperature"], ["y"])]
    given = [info("x", shape=("batch", 16)), info("temperature", shape=())]
    proto = assemble(nodes, {"w": WEIGHT, "temperature": np.array(1, np.float32)}, inputs=given)
    proto.ir_version = ir_version
    model = graph.from_proto(proto)
    assert [t.name for t in model.graph.inputs] == ["x"]
    said = ("inputs with a default (temperature) are constants of a clone: it cannot be fed others",)
    assert model.notes == (said if ir_version >= 4 else ())
