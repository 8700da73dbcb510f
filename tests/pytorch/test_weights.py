"""What counts as a weight, by the rule that weights.py states; names; ties."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from graphclone import graph
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.weights import weight_map

F32, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def made(nodes, inputs, constants, opset=17):
    info = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ins, outs, name, **attributes) for op, ins, outs, name, attributes in nodes],
        "weights",
        [info(n, t, s) for n, t, s in inputs],
        [info("y", F32, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return graph.from_proto(onnx.helper.make_model(proto, opset_imports=opsets, ir_version=8))  # noqa: TID251


def roles(model):
    return {weight.name: weight.role for weight in weight_map(model)}


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


X = [("x", F32, ["b", 4])]


def test_roles_follow_use():
    nodes = [
        ("MatMul", ["x", "w"], ["a"], "", {}),
        ("Add", ["a", "c"], ["d"], "", {}),
        ("Mul", ["d", "g"], ["e"], "", {}),
        ("LayerNormalization", ["e", "gain", "bias"], ["y"], "", {}),
    ]
    constants = {"w": floats(4, 4), "c": floats(4), "g": floats(4), "gain": floats(4), "bias": floats(4)}
    assert roles(made(nodes, X, constants)) == {"w": "matrix", "c": "bias", "g": "gain", "gain": "gain", "bias": "bias"}


def test_a_gain_stored_as_its_difference_from_one_starts_at_zero():
    nodes = [("Add", ["g", "one"], ["h"], "", {}), ("Mul", ["x", "h"], ["y"], "", {})]
    assert roles(made(nodes, X, {"g": floats(4), "one": np.float32(1)})) == {"g": "bias"}


def test_single_numbers_and_masks_are_not_weights():
    nodes = [
        ("Mul", ["x", "half"], ["a"], "", {}),
        ("Add", ["a", "mask"], ["b"], "", {}),
        ("Add", ["b", "infinite"], ["y"], "", {}),
    ]
    constants = {
        "half": np.array([0.5], np.float32),
        "mask": np.array([0, 0, 0, -1e4], np.float32),
        "infinite": np.array([0, -np.inf, 0, 0], np.float32),
    }
    model = made(nodes, X, constants)
    assert roles(model) == {}
    assert len(dict(to_torch(model).named_buffers())) == 2


def test_tables_over_positions_are_not_weights_and_embeddings_are():
    nodes = [
        ("Cast", ["p"], ["f"], "", {"to": F32}),
        ("Mul", ["f", "slopes"], ["a"], "", {}),
        ("Gather", ["table", "p"], ["e"], "", {}),
        ("Squeeze", ["e", "axis"], ["s"], "", {}),
        ("Add", ["a", "s"], ["y"], "", {}),
    ]
    constants = {"slopes": floats(4), "table": floats(9, 4), "axis": np.array([1], np.int64)}
    assert roles(made(nodes, [("p", I64, ["n", 1])], constants)) == {"table": "matrix"}


def test_cosine_and_sine_tables_are_not_weights_though_they_multiply_a_signal():
    angles = np.outer(np.arange(6), [1.0, 0.1, 0.01, 0.001]).astype(np.float32)
    nodes = [
        ("Gather", ["cos", "p"], ["c"], "", {}),
        ("Gather", ["sin", "p"], ["s"], "", {}),
        ("Mul", ["x", "c"], ["a"], "", {}),
        ("Mul", ["x", "s"], ["b"], "", {}),
        ("Add", ["a", "b"], ["y"], "", {}),
    ]
    inputs = [*X, ("p", I64, ["b"])]
    assert roles(made(nodes, inputs, {"cos": np.cos(angles), "sin": np.sin(angles)})) == {}
    assert roles(made(nodes, inputs, {"cos": np.cos(angles), "sin": floats(6, 4)})) == {
        "cos": "matrix",
        "sin": "matrix",
    }


def test_channel_means_of_an_image_are_not_weights():
    nodes = [("Sub", ["x", "mean"], ["a"], "", {}), ("Conv", ["a", "w"], ["y"], "", {})]
    constants = {"mean": floats(1, 3, 1, 1), "w": floats(2, 3, 1, 1)}
    assert roles(made(nodes, [("x", F32, ["b", 3, 4, 4])], constants)) == {"w": "matrix"}


def test_a_transposed_copy_is_the_same_parameter():
    embedding = floats(16, 4)
    nodes = [("Gather", ["embed.weight", "p"], ["e"], "", {}), ("Gemm", ["e", "onnx::Gemm_9"], ["y"], "", {})]
    constants = {"embed.weight": embedding, "onnx::Gemm_9": np.ascontiguousarray(embedding.T)}
    module = to_torch(made(nodes, [("p", I64, ["b"])], constants))
    assert [(w.name, w.initializers) for w in weights(module)] == [
        ("embed.weight", (("embed.weight", False), ("onnx::Gemm_9", True)))
    ]
    ids = torch.tensor([3, 0])
    torch.testing.assert_close(module(p=ids)["y"], torch.from_numpy(embedding[[3, 0]] @ embedding.T))


@pytest.mark.parametrize(
    ("initializer", "node", "parameter"),
    [
        ("layers.0.q.weight", "", "layers_0_q.weight"),
        ("onnx::MatMul_7", "/layers.0/q_proj/MatMul", "layers_0_q_proj.weight"),
        ("a/b:0", "", "a_b_0.weight"),
        ("forward.class.weight", "", "forward__class_.weight"),
        ("training", "", "training_.weight"),
    ],
)
def test_names_are_identifiers(initializer, node, parameter):
    model = made([("MatMul", ["x", initializer], ["y"], node, {})], X, {initializer: floats(4, 4)})
    assert dict(to_torch(model).named_parameters())[parameter].shape == (4, 4)


def test_a_name_that_is_also_a_folder_of_names_gets_another():
    nodes = [("MatMul", ["x", "a.b"], ["z"], "", {}), ("MatMul", ["z", "a.b.c"], ["y"], "", {})]
    model = made(nodes, X, {"a.b": floats(4, 4), "a.b.c": floats(4, 4) + 1})
    module = to_torch(model)
    assert len({weight.name for weight in weights(module)}) == len(dict(module.named_parameters())) == 2
