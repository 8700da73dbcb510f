"""Branches that are always taken: the inlined graph computes what ONNX Runtime computes with the branches."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphclone.graph import from_proto
from graphclone.verification.sessions import open_session
from tests.tiny_models import assemble, make

X = np.array([1, 2, 3], np.float32)


def vector(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])


def body(value: float, out: str, kind: str = "initializer", source: str = "x", inner: str = "t") -> onnx.GraphProto:
    """source + value, through names that every body uses."""
    held = numpy_helper.from_array(np.array([value], np.float32), "c")
    nodes = [make("Add", [source, "c"], [inner]), make("Identity", [inner], [out])]
    if kind == "constant node":
        nodes.insert(0, make("Constant", [], ["c"], value=held))
    return helper.make_graph(nodes, "body", [], [vector(out)], [held] if kind == "initializer" else [])


def chosen(out: str, yes: onnx.GraphProto, no: onnx.GraphProto, condition: str = "yes") -> onnx.NodeProto:
    return make("If", [condition], [out], then_branch=yes, else_branch=no)


def whole(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    held = {"yes": np.array(True), **weights}
    made = assemble(nodes, held, inputs=[vector("x")], outputs=[vector("y")])
    onnx.checker.check_model(made, full_check=True)
    return made


def assert_same(proto: onnx.ModelProto) -> set[str]:
    """The same answer before and after; the names of the constants after."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = from_proto(proto)
    assert "If" not in {node.op for node in model.graph.nodes}
    np.testing.assert_array_equal(open_session(model).run({"x": X})["y"], session.run(None, {"x": X})[0])
    return set(model.constants())


@pytest.mark.parametrize("kind", ["initializer", "constant node"])
def test_bodies_beside_each_other_may_use_the_same_names(kind: str) -> None:
    nodes = [
        chosen("a", body(1, "a1", kind), body(2, "a2", kind)),
        chosen("b", body(10, "b1", kind), body(20, "b2", kind)),
        make("Mul", ["a", "b"], ["y"]),
    ]
    assert len(assert_same(whole(nodes))) == 2


def test_bodies_within_bodies_may_too() -> None:
    inside = [body(1, "i1", inner="u"), body(2, "i2", inner="u")]
    outer = helper.make_graph([chosen("o", *inside), make("Neg", ["o"], ["o1"])], "outer", [], [vector("o1")])
    nodes = [
        chosen("a", outer, body(3, "o2")),
        chosen("b", body(10, "b1", inner="u"), body(20, "b2")),
        make("Mul", ["a", "b"], ["y"]),
    ]
    assert_same(whole(nodes))


def test_what_bodies_take_from_around_them_keeps_its_name_and_stays_one() -> None:
    nodes = [
        chosen("a", body(0, "a1", "captured"), body(0, "a2", "captured")),
        chosen("b", body(0, "b1", "captured", "a"), body(0, "b2", "captured", "a")),
        make("Mul", ["a", "b"], ["y"]),
    ]
    assert assert_same(whole(nodes, c=np.array([7], np.float32))) == {"c"}


def test_a_body_that_stays_does_not_take_a_name_of_one_that_went() -> None:
    nodes = [
        make("ReduceSum", ["x"], ["sum"], keepdims=0),
        make("Greater", ["sum", "zero"], ["fed"]),
        chosen("b", body(10, "b1"), body(20, "b2"), "fed"),
        chosen("a", body(1, "a1"), body(2, "a2")),
        make("Mul", ["a", "b"], ["y"]),
    ]
    proto = whole(nodes, zero=np.array(0, np.float32))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = from_proto(proto)
    assert [node.op for node in model.graph.nodes].count("If") == 1
    for x in (X, -X):
        np.testing.assert_array_equal(open_session(model).run({"x": x})["y"], session.run(None, {"x": x})[0])
