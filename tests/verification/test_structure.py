"""Dead nodes, dead weights and broken graphs are found in the protobuf."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from graphclone.graph import Model, to_proto
from graphclone.verification import structure
from graphclone.verification.report import Check, Verdict


def examine(parent: Model, clone: onnx.ModelProto) -> dict[str, Check]:
    return {check.name: check for check in structure.examine(to_proto(parent)[0], clone)}


def test_a_right_clone_passes(parent: Model, make_clone: Callable[..., Model]) -> None:
    assert all(check.passed for check in examine(parent, to_proto(make_clone())[0]).values())


def test_dead_parts_are_found(parent: Model, make_clone: Callable[..., Model]) -> None:
    proto = to_proto(make_clone(dead=True))[0]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "left_behind"))
    checks = examine(parent, proto)
    assert "dead_node" in checks["no dead node"].detail
    assert "left_behind" in checks["no unused weight"].detail
    assert not checks["no dead node"].passed
    assert not checks["no unused weight"].passed


def test_an_input_that_lost_its_use_is_found(parent: Model, make_clone: Callable[..., Model]) -> None:
    proto = to_proto(make_clone())[0]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [1]))
    assert examine(parent, proto)["no unused input"].verdict is Verdict.FAILED


def test_wrong_shapes_are_found(parent: Model, make_clone: Callable[..., Model]) -> None:
    proto = to_proto(make_clone())[0]
    next(t for t in proto.graph.initializer if t.name == "up_bias").CopyFrom(
        onnx.numpy_helper.from_array(np.zeros(3, np.float32), "up_bias")
    )
    checks = examine(parent, proto)
    assert checks["strict shape inference"].verdict is Verdict.FAILED
    assert checks["onnx.checker"].verdict is Verdict.FAILED


def test_nodes_used_only_inside_a_subgraph_are_alive() -> None:
    make = onnx.helper.make_node
    inner = onnx.helper.make_graph(
        [make("Neg", ["outer"], ["negated"])], "inner", [], [onnx.helper.make_tensor_value_info("negated", 1, [2])]
    )
    nodes = [make("Relu", ["x"], ["outer"]), make("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)]
    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        nodes, "outer", [value("x", 1, [2]), value("flag", onnx.TensorProto.BOOL, [])], [value("y", 1, [2])]
    )
    proto = onnx.helper.make_model(  # noqa: TID251  made without any of graphclone
        made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    checks = {check.name: check for check in structure.examine(proto, proto)}
    assert checks["no dead node"].passed
    assert checks["no unused input"].passed


def test_what_the_parent_is_refused_for_as_well_says_nothing(parent: Model) -> None:
    proto = to_proto(parent)[0]
    proto.graph.node[0].op_type = "NoSuchOperator"
    checks = {check.name: check for check in structure.examine(proto, proto)}
    assert checks["onnx.checker"].verdict is Verdict.NOT_APPLICABLE
