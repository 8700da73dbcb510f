"""Weights back into the graph: byte-exact, or refused by name."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_model
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from graphclone import graph, saving
from graphclone.errors import BadData
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.weights import to_array
from graphclone.pytorch.write_back import from_torch, pack
from tests.pytorch.test_module import differs, feeds


def state(model):
    return {name: to_array(p) for name, p in to_torch(model).named_parameters()}


def test_untrained_comes_back_byte_for_byte(seeded_parent, tmp_path):
    model = graph.load(seeded_parent)
    back = from_torch(model, to_torch(model))
    before, after = model.constants(), back.constants()
    assert before.keys() == after.keys()
    assert all(a.dtype == before[n].dtype and a.tobytes() == before[n].tobytes() for n, a in after.items())
    saving.save(model, tmp_path / "before.onnx")
    saving.save(back, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_trained_weights_reach_onnx_runtime(seeded_parent, tmp_path):
    model = graph.load(seeded_parent)
    module = to_torch(model)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.01 * torch.randn_like(p))
    saving.save(from_torch(model, module), tmp_path / "trained.onnx")
    differs(module, tmp_path / "trained.onnx")
    with pytest.raises(AssertionError, match="differs by"):
        differs(module, seeded_parent)


def test_compiled_and_wrapped_names_are_understood(parent_file):
    model = graph.load(parent_file("gpt2", exporter="dynamo"))
    module = to_torch(model)
    module.blocks[1] = checkpoint_wrapper(torch.compile(module.blocks[1]))
    wrapped = torch.nn.Module()
    wrapped.add_module("module", torch.compile(module))
    assert from_torch(model, wrapped).constants().keys() == model.constants().keys()


@pytest.fixture(scope="module")
def tied(parent_file):
    """A model whose head is a transposed copy of its embedding, and the two names."""
    model = graph.load(parent_file("llama", exporter="torchscript"))
    weight = next(w for w in weights(to_torch(model)) if w.shape[0] > 100)
    return model, weight


def test_initializer_names_are_understood(tied):
    model, _ = tied
    held = {n for w in weights(to_torch(model)) for n, _ in w.initializers}
    back = pack(model, {n: a for n, a in model.constants().items() if n in held})
    assert all(np.array_equal(a, back.constants()[n]) for n, a in model.constants().items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, name: s.pop(name), "no values for {}"),
        (lambda s, name: s.update(stranger=np.zeros(2, np.float32)), "no weight called stranger"),
        (lambda s, name: s.update({name: s[name][:-1]}), "{}: shape"),
        (lambda s, name: s.update({name: s[name] * np.nan}), "{}: holds values that are not finite"),
        (lambda s, name: s.update({name: s[name].astype(np.int64)}), "{}: element type int64"),
    ],
    ids=["missing", "unknown", "shape", "nan", "type"],
)
def test_what_does_not_fit_is_refused_by_name(parent_file, spoil, message):
    model = graph.load(parent_file("gpt2", exporter="torchscript"))
    tensors = state(model)
    name = sorted(tensors)[3]
    before = {n: a.tobytes() for n, a in model.constants().items()}
    spoil(tensors, name)
    with pytest.raises(BadData) as refused:
        pack(model, tensors)
    assert message.format(name) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert before == {n: a.tobytes() for n, a in model.constants().items()}


def test_ties_that_disagree_are_refused():
    from tests.pytorch.test_weights import I64, floats, made

    embedding = floats(16, 4)
    nodes = [("Gather", ["e", "p"], ["z"], "", {}), ("Gemm", ["z", "head"], ["y"], "", {})]
    model = made(nodes, [("p", I64, ["b"])], {"e": embedding, "head": np.ascontiguousarray(embedding.T)})
    both = pack(model, {"e": embedding + 1, "head": embedding.T + 1}).constants()
    assert np.array_equal(both["e"], both["head"].T)
    one = pack(model, {"head": embedding.T + 2}).constants()
    assert np.array_equal(one["e"], embedding + 2)
    with pytest.raises(BadData, match="one tied weight"):
        pack(model, {"e": embedding, "head": embedding.T + 1})


@pytest.fixture(scope="module")
def one_weight(parent_file):
    """A GPT-2, whose head is its embedding under a second name, and its module's state dict, which has both."""
    model = graph.load(parent_file("gpt2", exporter="torchscript"))
    return model, {name: tensor.detach() for name, tensor in to_torch(model).state_dict().items()}


def packed(model, tensors):
    return pack(model, {name: to_array(tensor) for name, tensor in tensors.items()}).constants()


@pytest.mark.parametrize("dropped", [None, "head.weight", "embedding.weight"])
def test_a_tied_weight_is_taken_under_any_of_its_names(one_weight, dropped):
    """safetensors' save_model keeps the name that is first in the alphabet, whichever the module lists first."""
    model, held = one_weight
    assert {"head.weight", "embedding.weight"} <= held.keys()
    trained = {name: tensor + 1 for name, tensor in held.items() if name != dropped}
    given = {array.tobytes() for array in packed(model, trained).values()}
    assert to_array(held["head.weight"] + 1).tobytes() in given


def test_what_save_model_keeps_of_a_tie_goes_back(one_weight, tmp_path):
    model, held = one_weight
    save_model(to_torch(model), str(tmp_path / "saved.safetensors"))
    kept = load_file(tmp_path / "saved.safetensors")
    assert len(kept) < len(held)
    before = model.constants()
    assert all(array.tobytes() == before[name].tobytes() for name, array in packed(model, kept).items())


def test_names_of_one_weight_that_differ_are_refused(one_weight):
    model, held = one_weight
    with pytest.raises(BadData, match=r"head\.weight and embedding\.weight are one tied weight"):
        packed(model, held | {"head.weight": held["head.weight"] + 1})
    untied = to_torch(model)
    untied.head.weight = torch.nn.Parameter(untied.head.weight.detach().clone())
    assert from_torch(model, untied).constants().keys() == model.constants().keys()
    with torch.no_grad():
        untied.head.weight.add_(1)
    with pytest.raises(BadData, match=r"head\.weight and embedding\.weight are one tied weight"):
        from_torch(model, untied)


def test_wider_numbers_are_rounded_to_the_graphs_own(parent_file):
    model = graph.load(parent_file("gpt2", exporter="dynamo"))
    tensors = {n: a.astype(np.float64) for n, a in state(model).items()}
    assert {a.dtype for a in pack(model, tensors).constants().values()} == {a.dtype for a in model.constants().values()}


def test_the_result_runs(parent_file, tmp_path):
    file = parent_file("bert", exporter="torchscript")
    model = graph.load(file)
    saving.save(pack(model, state(model)), tmp_path / "packed.onnx")
    ours, theirs = (onnxruntime.InferenceSession(f) for f in (tmp_path / "packed.onnx", file))
    given = feeds(ours, 2, 5)
    assert all(np.array_equal(a, b) for a, b in zip(ours.run(None, given), theirs.run(None, given), strict=True))


@pytest.mark.parametrize("names", [("module.weight", "w"), ("module.weight", "weight"), ("w", "v")])
def test_a_wrapper_is_told_from_a_part_of_the_same_name(names):
    """DistributedDataParallel puts ``module.`` before every name; an export of what it wraps has it in some."""
    from tests.pytorch.test_weights import X, floats, made

    nodes = [("MatMul", ["x", names[0]], ["h"], "", {}), ("MatMul", ["h", names[1]], ["y"], "", {})]
    model = made(nodes, X, {name: floats(4, 4) + i for i, name in enumerate(names)})
    module = to_torch(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    wrapper = torch.nn.Module()
    wrapper.module = module
    for trained in (module, wrapper):
        found = from_torch(model, trained).constants()
        assert all(np.array_equal(found[name], floats(4, 4) + i + 1) for i, name in enumerate(names))
