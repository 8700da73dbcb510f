"""Arithmetic on shapes: each way an operator acts on sizes, against ONNX Runtime, with sizes known only at run time."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from graphclone import graph
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.operators import ON_SIZES

I64, F32, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def node(op, inputs, outputs, **attributes):
    return onnx.helper.make_node(op, inputs, outputs, **attributes)


def binary(op, other):
    return [node(op, ["s", "k"], ["y"])], {"k": np.array(other, np.int64)}


def with_axes(op, since, axes, source="s"):
    if since >= (18 if op.startswith("Reduce") else 13):
        return [node(op, [source, "k"], ["y"])], {"k": np.array(axes, np.int64)}
    return [node(op, [source], ["y"], axes=axes)], {}


def rounded(op):
    half = {"h": np.array(2.5, np.float32)}
    return [node("Cast", ["s"], ["f"], to=F32), node("Div", ["f", "h"], ["q"]), node(op, ["q"], ["y"])], half


CHAINS = {
    **{op: lambda since, op=op: binary(op, [2, 0, 3]) for op in ("Add", "Sub")},
    **{op: lambda since, op=op: binary(op, [2, 1, 3]) for op in ("Mul", "Div", "Mod")},
    **{op: lambda since, op=op: _compared(op, since, 12) for op in ("Min", "Max")},
    **{op: lambda since, op=op: binary(op, [-1, 3, 4]) for op in ("Equal",)},
    **{op: lambda since, op=op: _compared(op, since) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: lambda since, op=op: rounded(op) for op in ("Floor", "Ceil", "Sqrt")},
    "Where": lambda since: (
        [node("Equal", ["s", "m"], ["c"]), node("Where", ["c", "k", "s"], ["y"])],
        {"m": np.array([2, -1, 4], np.int64), "k": np.array([7, 8, 9], np.int64)},
    ),
    "Cast": lambda since: ([node("Cast", ["s"], ["y"], to=F32)], {}),
    "Identity": lambda since: ([node("Identity", ["s"], ["y"])], {}),
    "Gather": lambda since: ([node("Gather", ["s", "k"], ["y"])], {"k": np.array([2, 0], np.int64)}),
    "Shape": lambda since: ([node("Shape", ["s"], ["y"])], {}),
    "Concat": lambda since: ([node("Concat", ["s", "k"], ["y"], axis=0)], {"k": np.array([5], np.int64)}),
    "Slice": lambda since: (
        [node("Slice", ["s", "a", "b"], ["y"])],
        {"a": np.array([1], np.int64), "b": np.array([3], np.int64)},
    ),
    "Unsqueeze": lambda since: with_axes("Unsqueeze", since, [0]),
    "Reshape": lambda since: ([node("Reshape", ["s", "k"], ["y"])], {"k": np.array([3, -1], np.int64)}),
    "ReduceProd": lambda since: with_axes("ReduceProd", since, [0]),
}


def _compared(op, since, whole=9):
    """``whole``: the opset from which the operator takes integers."""
    if since >= whole:
        return binary(op, [3, 2, 4])
    floats = {"k": np.array([3, 2, 4], np.float32)}
    return [node("Cast", ["s"], ["f"], to=F32), node(op, ["f", "k"], ["y"])], floats


def _squeezed(since):
    nodes, constants = with_axes("Squeeze", since, [0], "g")
    return [node("Gather", ["s", "i"], ["g"]), *nodes], {**constants, "i": np.array([1], np.int64)}


CHAINS["Squeeze"] = _squeezed


def model(op, since):
    """x -> Shape -> the chain -> y, then y as a float so that one output type serves all."""
    nodes, constants = CHAINS[op](since)
    nodes = [node("Shape", ["x"], ["s"]), *nodes, node("Cast", ["y"], ["out"], to=F32)]
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        nodes,
        "sizes",
        [info("x", F32, ["a", "b", "c"])],
        [info("out", F32, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", max(since, 7))]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone


@pytest.mark.parametrize("key", sorted(ON_SIZES), ids=lambda key: f"{key[1]}-{key[2]}")
def test_sizes_follow_the_input(key):
    proto = model(key[1], key[2])
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    module = to_torch(graph.from_proto(proto))
    for shape in ((2, 3, 4), (1, 2, 5), (7, 3, 1)):
        x = np.zeros(shape, np.float32)
        found = module(x=torch.from_numpy(x))["out"].numpy()
        np.testing.assert_allclose(found, session.run(None, {"x": x})[0], rtol=1e-6)


def test_every_way_to_act_on_sizes_has_a_chain():
    assert sorted({key[1] for key in ON_SIZES} - CHAINS.keys()) == []


def test_shape_arithmetic_is_python_numbers_not_tensors():
    """Mod of a size stays a number: the module's code makes one tensor, for the output."""
    module = to_torch(graph.from_proto(model("Mod", 13)))
    assert module.code.count("torch.tensor(") == 1


BESIDE = {  # a run-time tensor and a size: the other operand of one operator
    "integers divided by a size": ([node("Div", ["i", "n"], ["y"])], I64),
    "integers to the power of a size": ([node("Pow", ["i", "n"], ["y"])], I64),
    "a number to the power of a size": ([node("Pow", ["x", "n"], ["y"])], F32),
    "a size divided by integers": ([node("Div", ["n", "i"], ["y"])], I64),
    "a size divided by numbers": ([node("Cast", ["n"], ["f"], to=F32), node("Div", ["f", "x"], ["y"])], F32),
}


@pytest.mark.parametrize("chain", BESIDE.values(), ids=BESIDE)
def test_a_size_beside_a_tensor(chain):
    nodes, result = chain
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"]), *nodes],
        "beside",
        [info("x", F32, ["a", "b"]), info("i", I64, ["a", "b"])],
        [info("y", result, None)],
        [onnx.numpy_helper.from_array(np.array(1, np.int64), "one")],
    )
    proto = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)  # noqa: TID251
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    module = to_torch(graph.from_proto(proto))
    for shape in ((2, 3), (3, 2)):
        i = np.arange(1, 7, dtype=np.int64).reshape(shape)
        given = {"x": i.astype(np.float32) / 2, "i": i}
        found = module(**{name: torch.from_numpy(array) for name, array in given.items()})["y"].numpy()
        (expected,) = session.run(None, given)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)
