"""What counts as a weight, by the rule that weights.py states; names; ties."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from graphclone import graph
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.training import reinitialised
from graphclone.pytorch.weights import weight_map
from graphclone.pytorch.write_back import from_torch, pack

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
        ("Add", ["a", "s"], ["scores"], "", {}),
        ("Softmax", ["scores"], ["y"], "", {}),
    ]
    constants = {"slopes": floats(4), "table": floats(9, 4), "axis": np.array([1], np.int64)}
    model = made(nodes, [("p", I64, ["n", 1])], constants)
    assert roles(model) == {"table": "matrix"}
    assert weight_map(model).left == ()


def test_rotary_frequencies_are_no_weights_as_a_product_and_as_a_factor():
    for op, shape in (("MatMul", (1, 4)), ("Mul", (4,))):
        nodes = [
            ("Cast", ["p"], ["f"], "", {"to": F32}),
            (op, ["f", "frequencies"], ["a"], "", {}),
            ("Sin", ["a"], ["s"], "", {}),
            ("Mul", ["x", "s"], ["y"], "", {}),
        ]
        model = made(nodes, [("x", F32, ["n", 4]), ("p", I64, ["n", 1])], {"frequencies": floats(*shape)})
        assert roles(model) == {}
        assert weight_map(model).left == ()


def test_what_is_multiplied_and_summed_over_is_a_weight_whatever_the_other_side_is():
    """Pixels as bytes, features as integers, and a projection of sines of positions (XLNet's relative encoding)."""
    nodes = [
        ("Cast", ["pixels"], ["c"], "", {"to": F32}),
        ("Sub", ["c", "mean"], ["d"], "", {}),
        ("Conv", ["d", "filters"], ["e"], "", {}),
        ("GlobalMaxPool", ["e"], ["g"], "", {}),
        ("Flatten", ["g"], ["h"], "", {}),
        ("MatMul", ["h", "head"], ["y"], "", {}),
    ]
    constants = {"mean": 100 * np.abs(floats(1, 3, 1, 1)), "filters": floats(5, 3, 2, 2), "head": floats(5, 2)}
    model = made(nodes, [("pixels", onnx.TensorProto.UINT8, ["b", 3, 4, 4])], constants)
    assert roles(model) == {"filters": "matrix", "head": "matrix"}
    assert weight_map(model).left == ()
    nodes = [
        ("Cast", ["p"], ["f"], "", {"to": F32}),
        ("Mul", ["f", "frequencies"], ["a"], "", {}),
        ("Sin", ["a"], ["s"], "", {}),
        ("Gemm", ["s", "w", "b"], ["t"], "", {"transB": 1}),
        ("Einsum", ["t", "r"], ["y"], "", {"equation": "ih,hnd->ind"}),
    ]
    constants = {"frequencies": floats(4), "w": floats(6, 4), "b": floats(6), "r": floats(6, 2, 3)}
    assert roles(made(nodes, [("p", I64, ["n", 1])], constants)) == {"w": "matrix", "b": "bias", "r": "matrix"}


def test_a_vector_that_a_mask_puts_into_a_signal_is_a_weight():
    """The mask token of ViT and BEiT: the embedding where nothing is hidden, and else the token."""
    nodes = [
        ("Cast", ["hidden"], ["f"], "", {"to": F32}),
        ("Mul", ["f", "token"], ["a"], "", {}),
        ("Add", ["x", "a"], ["y"], "", {}),
    ]
    inputs = [*X, ("hidden", onnx.TensorProto.BOOL, ["b", 1])]
    assert roles(made(nodes, inputs, {"token": floats(1, 4)})) == {"token": "bias"}


def test_a_bias_of_scores_that_is_added_to_an_integer_mask_first_is_a_weight():
    nodes = [
        ("Cast", ["mask"], ["f"], "", {"to": F32}),
        ("Add", ["f", "bias"], ["m"], "", {}),
        ("Add", ["x", "m"], ["s"], "", {}),
        ("Softmax", ["s"], ["y"], "", {}),
    ]
    assert roles(made(nodes, [*X, ("mask", I64, ["b", 4])], {"bias": floats(4, 4)})) == {"bias": "matrix"}


def test_what_nothing_shows_to_be_a_weight_is_named():
    nodes = [
        ("Cast", ["p"], ["f"], "", {"to": F32}),
        ("Mul", ["f", "steps"], ["a"], "", {}),
        ("Cast", ["a"], ["i"], "", {"to": I64}),
        ("Gather", ["table", "i"], ["e"], "", {}),
        ("Mul", ["e", "embed.scale"], ["y"], "", {}),
    ]
    constants = {"steps": floats(4), "table": floats(9, 4), "embed.scale": np.float32(8)}
    found = weight_map(made(nodes, [("p", I64, ["n", 4])], constants))
    assert found.left == ("steps", "embed.scale")
    assert found.notes() == [
        "not trained: steps, embed.scale (nothing in the graph tells them from fixed numbers, so they stay as they are)"
    ]
    assert weights(to_torch(made(nodes, [("p", I64, ["n", 4])], constants))).left == found.left


@pytest.mark.parametrize("name", ["logit_scale", "onnx::Exp_7"])
def test_a_single_number_whose_exponential_scales_a_signal_is_a_weight(name):
    """CLIP's and SigLIP's temperature; an epsilon, a size and a scale of attention are no weights, nor worth a line."""
    nodes = [
        ("Add", ["x", "epsilon"], ["a"], "", {}),
        ("Mul", ["a", "sqrt_1"], ["b"], "", {}),
        ("Exp", [name], ["e"], "", {}),
        ("Mul", ["b", "e"], ["c"], "", {}),
        ("Mul", ["c", "scaling"], ["d"], "", {}),
        ("Softmax", ["d"], ["y"], "", {}),
    ]
    numbers = {"epsilon": 1e-5, "sqrt_1": 3.0, name: 2.5, "scaling": 0.5}
    model = made(nodes, X, {key: np.float32(value) for key, value in numbers.items()})
    found = weight_map(model)
    assert [(w.role, w.shape, w.initializers[0][0]) for w in found] == [("gain", (1,), name)]
    assert found.left == ()
    module = to_torch(model)
    x = torch.ones(2, 4, requires_grad=True)
    given = module(x=x)["y"]
    assert given.shape == (2, 4)
    given[:, 0].sum().backward()
    (parameter,) = module.parameters()
    assert parameter.grad is not None
    with torch.no_grad():
        parameter.fill_(1.5)
    trained = from_torch(model, module)
    assert trained.constants()[name] == np.float32(1.5)
    assert trained.constants()[name].shape == ()
    for given in (np.float32(2), np.full(1, 2, np.float32)):
        assert pack(model, {name: given}).constants()[name] == np.float32(2)
    assert reinitialised(model, 0).constants()[name].shape == ()


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
