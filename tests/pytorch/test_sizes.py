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
    "Size": lambda since: ([node("Size", ["s"], ["n"]), node("Mul", ["n", "s"], ["y"])], {}),
    "Transpose": lambda since: (
        [node("Reshape", ["s", "k"], ["r"]), node("Transpose", ["r"], ["y"], perm=[1, 0])],
        {"k": np.array([3, 1], np.int64)},
    ),
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


SIZE = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"])]
AS_FLOAT = [*SIZE, node("Cast", ["n"], ["f"], to=F32)]
COUNTED = node("Range", ["zero", "k", "one"], ["y"])  # the number shows in the shape
BESIDE = {
    "integers divided by a size": (I64, [*SIZE, node("Div", ["x", "n"], ["y"])]),
    "a size divided by integers": (I64, [*SIZE, node("Add", ["x", "one"], ["p"]), node("Div", ["n", "p"], ["y"])]),
    "numbers divided by a size": (F32, [*AS_FLOAT, node("Div", ["x", "f"], ["y"])]),
    "a size divided by numbers": (F32, [*AS_FLOAT, node("Exp", ["x"], ["e"]), node("Div", ["f", "e"], ["y"])]),
    "a size less numbers": (F32, [*AS_FLOAT, node("Sub", ["f", "x"], ["y"])]),
    "a size above numbers": (F32, [*AS_FLOAT, node("Greater", ["f", "x"], ["y"])]),
    "numbers to the power of a size": (F32, [*AS_FLOAT, node("Pow", ["x", "f"], ["y"])]),
    "integers to the power of a size": (I64, [*SIZE, node("Pow", ["x", "n"], ["y"])]),
    "a size to the power of numbers": (F32, [*AS_FLOAT, node("Pow", ["f", "x"], ["y"])]),
    "a share of a size, rounded down": (
        F32,
        [*AS_FLOAT, node("Mul", ["f", "share"], ["m"]), node("Floor", ["m"], ["c"]), node("Cast", ["c"], ["k"], to=I64),
         COUNTED],
    ),
    "a share of a size, rounded up": (
        F32,
        [*AS_FLOAT, node("Div", ["f", "share"], ["m"]), node("Ceil", ["m"], ["c"]), node("Cast", ["c"], ["k"], to=I64),
         COUNTED],
    ),
    "the least of three": (
        F32, [*SIZE, node("Gather", ["s", "zero"], ["b"]), node("Min", ["b", "n", "four"], ["k"]), COUNTED],
    ),
    "the most of three": (
        F32, [*SIZE, node("Gather", ["s", "zero"], ["b"]), node("Max", ["b", "n", "four"], ["k"]), COUNTED],
    ),
    "what a range does not reach": (F32, [*SIZE, node("Sub", ["n", "four"], ["k"]), COUNTED]),
    "down to what it does not reach": (
        F32, [*SIZE, node("Sub", ["n", "four"], ["k"]), node("Range", ["zero", "k", "less"], ["y"])],
    ),
    "steps of a size": (F32, [*SIZE, node("Range", ["zero", "ten", "n"], ["y"])]),
    "a range behind a past": (F32, [*SIZE, node("Add", ["n", "four"], ["k"]), node("Range", ["n", "k", "one"], ["y"])]),
}  # fmt: skip
NUMBERS = {"zero": 0, "one": 1, "four": 4, "ten": 10, "less": -1}


def beside(name):
    dtype, nodes = BESIDE[name]
    constants = {n: np.array(v) for n, v in NUMBERS.items()} | {"share": np.float32(0.7)}
    made = onnx.helper.make_graph(
        nodes,
        "sizes",
        [onnx.helper.make_tensor_value_info("x", dtype, ["a", "b"])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone


@pytest.mark.parametrize("name", BESIDE)
def test_sizes_beside_tensors_and_in_float32(name):
    proto = beside(name)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    module = to_torch(graph.from_proto(proto))
    for shape in ((2, 3), (1, 10), (3, 5), (2, 1)):
        x = np.arange(np.prod(shape)).reshape(shape).astype(np.float32 if BESIDE[name][0] == F32 else np.int64)
        found, wanted = module(x=torch.from_numpy(x))["y"].numpy(), session.run(None, {"x": x})[0]
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_range_that_is_proved_to_count_up_has_no_guard():
    for name in ("a range behind a past", "a share of a size, rounded down"):
        assert "sym_max" not in to_torch(graph.from_proto(beside(name))).code
    assert "sym_max" in to_torch(graph.from_proto(beside("what a range does not reach"))).code
