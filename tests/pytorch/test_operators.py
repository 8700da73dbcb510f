"""Every row of the operator table against ONNX Runtime, one node at a time."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx.defs
import onnx.reference
import onnxruntime
import pytest
import torch

from graphclone import graph
from graphclone.errors import UnsupportedGraph
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.operators import TABLE, rows
from tests.pytorch.cases import attention, elementwise, movement, products, quantised
from tests.tolerances import assert_close

CASES = [*elementwise.CASES, *movement.CASES, *products.CASES, *attention.CASES, *quantised.CASES]
NO_KERNEL = ("NOT_IMPLEMENTED", "NotImplemented", "no kernel", "Could not find an implementation")


def expected(case):
    """By ONNX Runtime; by onnx's reference operators where it has no kernel for the version or type."""
    proto = case.model()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, case.feeds())
    except Exception as reason:  # the runtime's own exceptions share no base
        if not any(text in str(reason) + type(reason).__name__ for text in NO_KERNEL):
            raise
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return onnx.reference.ReferenceEvaluator(proto).run(None, case.feeds())


def actual(case, types):
    module = to_torch(graph.from_proto(case.model(types)))
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(np.array(a)) for name, a in case.feeds().items()})
    return [outputs[f"y{i}"].numpy() for i in range(case.outputs)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_computes_what_onnx_runtime_computes(case):
    wanted_outputs = expected(case)
    found_outputs = actual(case, tuple(w.dtype for w in wanted_outputs))
    for found, wanted in zip(found_outputs, wanted_outputs, strict=True):
        assert found.dtype == wanted.dtype
        if wanted.dtype.kind == "f":
            assert_close(found, wanted)
        else:
            assert found.shape == wanted.shape
            np.testing.assert_array_equal(found, wanted)


def test_every_row_has_a_case():
    assert sorted(set(TABLE) - {case.key for case in CASES}) == []


def test_every_row_is_a_version_that_onnx_defines():
    """Contributed ones are not in onnx's list; SimplifiedLayerNormalization is ONNX Runtime's, in the main domain."""
    own = {"SimplifiedLayerNormalization"}
    for domain, op, since in TABLE:
        if not domain and op not in own:
            assert onnx.defs.get_schema(op, since, domain).since_version == since, op


def test_a_second_row_for_a_version_is_refused():
    with pytest.raises(ValueError, match=r"two rows for .*Relu"):
        rows.row("Relu", 14)(lambda call, x: x)


def test_an_operator_without_a_row_is_refused_by_name_before_anything_is_built():
    node = onnx.helper.make_node("Det", ["x"], ["y"], "the_node")
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph([node], "g", [info("x", 1, [2, 2])], [info("y", 1, [])])
    opsets = [onnx.helper.make_opsetid("", 17)]
    proto = onnx.helper.make_model(made, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone
    with pytest.raises(
        UnsupportedGraph, match=r"ai.onnx.Det version 11 \(node 'the_node', opset 17\).*@row\('Det', 11\)"
    ):
        to_torch(graph.from_proto(proto))
