"""Whole models: the module computes what ONNX Runtime computes, at any batch and length, and every weight learns."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  what torch.save does

import numpy as np
import onnxruntime
import pytest
import torch

from graphclone import graph
from graphclone.errors import UnsupportedGraph
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.recording import TAKEN
from graphclone.pytorch.write_back import from_torch
from tests.pytorch.test_weights import F32, floats, made
from tests.tolerances import difference

LIMIT = 1e-5  # of the largest number of an output, in float32
EXTENTS = ((1, 1), (2, 7), (3, 16))


def feeds(session, batch, length, seed=0):
    """Ids below the smallest vocabulary of the seeded parents, a padded row, pixels."""
    rng = np.random.default_rng(seed)
    found = {}
    for given in session.get_inputs():
        sizes = [d if isinstance(d, int) else (batch if axis == 0 else length) for axis, d in enumerate(given.shape)]
        if "mask" in given.name:
            found[given.name] = np.ones(sizes, np.int64)
            found[given.name][0, sizes[1] - sizes[1] // 3 :] = 0
        elif "type" in given.name:
            found[given.name] = np.zeros(sizes, np.int64)
        elif "position" in given.name:
            found[given.name] = np.broadcast_to(np.arange(sizes[-1]), sizes).copy()
        elif "int" in given.type:
            found[given.name] = rng.integers(0, 60, sizes)
        else:
            found[given.name] = rng.standard_normal(sizes).astype(np.float32)
    return found


def run(module, given):
    arguments = module.meta["graphclone.inputs"]
    return module(**{arguments[name]: torch.from_numpy(a) for name, a in given.items()})


def differs(module, file):
    """Assert that all outputs agree at several extents; returns the outputs of the last."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    module.eval()
    for batch, length in EXTENTS:
        given = feeds(session, batch, length)
        expected = session.run(None, given)
        with torch.no_grad():
            found = run(module, given)
        for output, wanted in zip(session.get_outputs(), expected, strict=True):
            away = difference(found[output.name].numpy(), wanted)
            assert away <= LIMIT, f"{output.name} differs by {away:.1e}"
    return found


def test_outputs_equal_onnx_runtime(seeded_parent):
    differs(to_torch(graph.load(seeded_parent)), seeded_parent)


def test_a_copied_module_computes_the_same_and_its_state_is_its_weights(parent_file):
    file = parent_file("llama", exporter="torchscript")
    module = copy.deepcopy(to_torch(graph.load(file)))
    differs(module, file)
    assert sorted(module.state_dict()) == sorted(weight.name for weight in weights(module))


def test_the_comparison_sees_a_changed_weight(seeded_parent):
    module = to_torch(graph.load(seeded_parent))
    with torch.no_grad():
        next(p for p in module.parameters() if p.dim() > 1).mul_(1.5)
    with pytest.raises(AssertionError, match="differs by"):
        differs(module, seeded_parent)


def test_every_parameter_gets_a_gradient(seeded_parent):
    module = to_torch(graph.load(seeded_parent))
    session = onnxruntime.InferenceSession(seeded_parent, providers=["CPUExecutionProvider"])
    outputs = run(module, feeds(session, 2, 7))
    total = sum((out * torch.sin(torch.arange(out.numel()).reshape(out.shape))).sum() for out in outputs.values())
    total.backward()
    dead = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # adding one number to every score of a softmax changes nothing, so a key's bias has no gradient but rounding
    assert [name for name in dead if "key" not in name and "k_proj" not in name] == []


def test_every_float_matrix_of_the_graph_is_a_parameter(seeded_parent):
    model = graph.load(seeded_parent)
    held = {name for weight in weights(to_torch(model)) for name, _ in weight.initializers}
    floats = {n for n, a in model.constants().items() if a.dtype.kind == "f" and a.size > 1}
    left_out = {n for n in floats - held if model.constants()[n].size > 64 or model.constants()[n].ndim > 1}
    assert left_out == set()


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_rotary_frequencies_are_a_buffer(parent_file, exporter):
    module = to_torch(graph.load(parent_file("llama", exporter=exporter)))
    assert module.code.count("torch.cos(") == 1
    buffers = dict(module.named_buffers())
    assert any(b.is_floating_point() and b.numel() > 1 for b in buffers.values())
    assert not any("inv_freq" in name or "rotary" in name for name, _ in module.named_parameters())


def test_a_tied_embedding_is_one_parameter(parent_file):
    module = to_torch(graph.load(parent_file("gpt2", exporter="dynamo")))
    assert module.head.weight is module.embedding.weight
    sizes = [tuple(p.shape) for p in module.parameters()]
    vocabulary, width = module.embedding.weight.shape
    assert sizes.count((vocabulary, width)) + sizes.count((width, vocabulary)) == 1


def test_a_gated_feed_forward_runs_as_silu(parent_file):
    module = to_torch(graph.load(parent_file("llama", exporter="dynamo")))
    assert "F.silu(" in module.code
    assert "sigmoid" not in module.code


def test_values_used_before_they_are_computed_are_refused(parent_file):
    model = graph.load(parent_file("vit-tiny", exporter="dynamo"))
    model.graph.nodes.append(model.graph.nodes.pop(3))
    with pytest.raises(UnsupportedGraph, match="sort the graph"):
        to_torch(model)


def test_the_code_is_short_shape_arithmetic_is_that_of_the_inputs(parent_file):
    """Exports by TorchScript hold hundreds of nodes that compute shapes; few are left."""
    model = graph.load(parent_file("llama", exporter="torchscript"))
    module = to_torch(model)
    assert module.code.count(".size(") <= 4  # of the ids, and of what the attention reads: batch and length
    assert "tolist" not in module.code
    assert "torch.tensor" not in module.code


RELU = [("MatMul", ["{}", "w"], ["h"], "", {}), ("Mul", ["h", "g"], ["m"], "", {}), ("Relu", ["m"], ["y"], "", {})]


def small(argument="x", weight="w"):
    """Of one input and one weight, called what is asked for."""
    nodes = [(op, [i.format(argument) if i != "w" else weight for i in ins], *rest) for op, ins, *rest in RELU]
    return made(nodes, [(argument, F32, ["b", 4])], {weight: floats(4, 4), "g": floats(4)})


@pytest.mark.parametrize("name", [*sorted(TAKEN), "class", "in", "a.1"])
def test_an_input_may_have_any_name(name):
    module = to_torch(small(name))
    x = floats(3, 4)
    expected = np.maximum(x @ floats(4, 4) * floats(4), 0)
    np.testing.assert_allclose(run(module, {name: x})["y"].detach().numpy(), expected, rtol=1e-5)


def test_two_inputs_whose_names_python_does_not_tell_apart_are_two():
    nodes = [("Sub", ["in", "in_"], ["y"], "", {})]
    module = to_torch(made(nodes, [("in", F32, ["b"]), ("in_", F32, ["b"])], {}))
    found = run(module, {"in": np.full(2, 5, np.float32), "in_": np.ones(2, np.float32)})["y"]
    assert found.tolist() == [4, 4]


@pytest.mark.parametrize("layer", ["InstanceNormalization", "PRelu"])
def test_weights_of_nn_sequential_have_names(layer):
    """Numbers alone: 1.weight, read by a call that is no module of torch.nn."""
    more = ["1.bias"] if layer == "InstanceNormalization" else []
    nodes = [("Conv", ["x", "0.weight"], ["c"], "", {}), (layer, ["c", "1.weight", *more], ["y"], "", {})]
    gain = floats(6) if more else floats(6, 1, 1)
    constants = {"0.weight": floats(6, 3, 2, 2), "1.weight": gain} | dict.fromkeys(more, floats(6))
    model = made(nodes, [("x", F32, ["b", 3, 5, 5])], constants)
    module = to_torch(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    packed = from_torch(model, module).constants()
    assert all(np.array_equal(packed[name], values + 1) for name, values in constants.items())


def test_a_pickled_module_computes_the_same(parent_file):
    file = parent_file("gpt2", exporter="dynamo")
    module = to_torch(graph.load(file))
    again = pickle.loads(pickle.dumps(module))
    assert again.head.weight is again.embedding.weight
    assert again.code == module.code
    differs(again, file)
    from_torch(graph.load(file), again)


def test_a_copy_keeps_what_was_set_on_the_module(parent_file):
    module = to_torch(graph.load(parent_file("llama", exporter="dynamo"))).eval()
    next(module.parameters()).requires_grad_(False)
    twin = copy.deepcopy(module)
    assert type(twin) is type(module)
    assert not twin.training
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in module.parameters()]
    assert all(a is not b for a, b in zip(twin.parameters(), module.parameters(), strict=True))
