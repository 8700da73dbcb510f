"""The module as a person would write it: the anatomy's names, one call a part, nothing replaced that differs."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import graphclone as gc
import models
from graphclone import graph
from graphclone.errors import InvalidTarget
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.write_back import from_torch, pack
from graphclone.verification.sessions import open_session
from tests.pytorch.test_module import feeds, run
from tests.pytorch.test_weights import F32, floats, made
from tests.tolerances import assert_close, difference

LEFT_OVER = ("erf(", "softmax(", "** 2", "tanh(", "sigmoid(")
LLAMA = {
    "embedding.weight",
    "blocks.2.attention.q.weight",
    "blocks.2.attention.k.weight",
    "blocks.2.attention.v.weight",
    "blocks.2.attention.o.weight",
    "blocks.2.feed_forward.gate.weight",
    "blocks.2.feed_forward.up.weight",
    "blocks.2.feed_forward.down.weight",
    "blocks.2.norm.0.weight",
    "blocks.2.norm.1.weight",
    "norm.weight",
    "head.weight",
}


def outputs(module, given):
    with torch.no_grad():
        return run(module, given)


def given_for(file, batch=2, length=7):
    return feeds(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]), batch, length)


def test_parts_are_recognised_in_every_parent(seeded_parent):
    code = to_torch(graph.load(seeded_parent)).code
    block = code[: code.index("class Model")]
    assert not [form for form in LEFT_OVER if form in block]
    assert 1 <= block.count("scaled_dot_product_attention") <= 2  # the first block may measure sizes its own way
    assert "for block in self.blocks" in code
    assert max(len(line) for line in block.splitlines()) <= 135


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_tree_follows_the_anatomy(parent_file, exporter):
    module = to_torch(graph.load(parent_file("llama", exporter=exporter)))
    names = set(dict(module.named_parameters()))
    assert names >= LLAMA
    assert isinstance(module.blocks, torch.nn.ModuleList)
    assert isinstance(module.blocks[1].attention.q, torch.nn.Linear)
    assert isinstance(module.blocks[1].norm[0], torch.nn.RMSNorm)
    assert "enable_gqa=True" in module.code


def test_a_packed_projection_is_one_linear(parent_file):
    module = to_torch(graph.load(parent_file("gpt2", exporter="torchscript")))
    width = module.embedding.weight.shape[1]
    assert module.blocks[0].attention.qkv.weight.shape == (3 * width, width)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit-tiny"])
def test_gradients_are_those_of_the_original(parent_file, name):
    """By initializer: dynamo keeps the names that the original has, or the same bytes."""
    model = graph.load(parent_file(name, exporter="dynamo"))
    parent = models.parent(name, models.options(name, exporter="dynamo"))
    module, original = to_torch(model).double(), parent.module.double()
    given = {n: (t.double() if t.is_floating_point() else t) for n, t in parent.inputs.items()}
    ours = module(**{module.meta["graphclone.inputs"][n]: t for n, t in given.items()})
    theirs = original(**given)
    for answer in (ours, theirs):
        sum(
            (answer[n] * torch.cos(torch.arange(answer[n].numel())).reshape(answer[n].shape)).sum()
            for n in parent.outputs
        ).backward()
    for n in parent.outputs:
        assert_close(ours[n].detach().numpy(), theirs[n].detach().numpy(), "float32")
    wanted = {p.detach().float().numpy().tobytes(): p.grad for p in original.parameters() if p.grad is not None}
    compared = 0
    for p in module.parameters():
        for turned in (False, True):
            held = (p.t() if turned else p) if p.dim() == 2 else p
            grad = wanted.get(held.detach().float().contiguous().numpy().tobytes())
            if grad is not None and p.grad is not None and (not turned or p.dim() == 2):
                assert_close((p.grad.t() if turned else p.grad).numpy(), grad.numpy(), "float32")
                compared += 1
                break
    assert compared >= 0.9 * len(list(module.parameters()))


def test_blocks_can_be_recomputed_one_by_one(parent_file):
    file = parent_file("llama", exporter="torchscript")
    plain = to_torch(graph.load(file))
    again = copy.deepcopy(plain)
    for block in again.blocks:
        forward = block.forward
        block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    given = given_for(file)
    for module in (plain, again):
        sum(out.square().mean() for out in run(module, given).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_the_module_exports_and_compiles(seeded_parent):
    """Whole, without a break of the graph, and at other sizes than it was traced with; pixels have one size."""
    module = to_torch(graph.load(seeded_parent)).eval()
    arguments = {n: torch.from_numpy(a) for n, a in given_for(seeded_parent).items()}
    larger = {n: torch.from_numpy(a) for n, a in given_for(seeded_parent, 3, 9).items()}
    dynamic = {
        n: dict.fromkeys(range(2 if t.dim() == 2 else 1), torch.export.Dim.DYNAMIC) for n, t in arguments.items()
    }
    program = torch.export.export(module, (), arguments, dynamic_shapes=dynamic).module()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    for name, wanted in module(**larger).items():
        assert_close(program(**larger)[name].detach().numpy(), wanted.detach().numpy())
        assert torch.equal(compiled(**larger)[name], wanted)


def test_dropout_is_put_back_and_sleeps_in_evaluation(parent_file):
    file = parent_file("bert", exporter="torchscript")
    model, given = graph.load(file), given_for(file)
    plain, dropped = to_torch(model).eval(), to_torch(model, dropout=0.4)
    assert dropped.code.count("0.4") == 4  # probabilities, attention, feed-forward, embeddings
    for name, out in outputs(dropped.eval(), given).items():
        assert torch.equal(out, outputs(plain, given)[name])
    torch.manual_seed(1)
    first = outputs(dropped.train(), given)["last_hidden_state"]
    assert not torch.allclose(first, outputs(dropped, given)["last_hidden_state"], atol=1e-2)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_dropout_is_a_share(parent_file, share):
    with pytest.raises(InvalidTarget, match="dropout is a share"):
        to_torch(graph.load(parent_file("llama", exporter="dynamo")), dropout=share)


def widened(model):
    """The graph in float64, its constants as they were rounded."""
    result = model.copy()
    result.path = None
    wide = {}
    for node in result.graph.nodes:
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.values.dtype == np.float32:
                node.inputs[i] = wide.setdefault(
                    tensor.name, gs.Constant(tensor.name, tensor.values.astype(np.float64))
                )
        if node.op == "Cast" and node.attrs["to"] == F32:
            node.attrs["to"] = onnx.TensorProto.DOUBLE
    for tensor in result.graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.dtype == np.float32:
            tensor.dtype = np.dtype(np.float64)
    return result


@pytest.mark.parametrize("name", ["gpt2", "llama"])  # ONNX Runtime has no Erf and no Conv in float64
def test_in_float64_nothing_is_replaced_by_what_is_nearly_equal(parent_file, tmp_path, name):
    model = widened(graph.load(parent_file(name, exporter="torchscript")))
    gc.save(model, tmp_path / "wide.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "wide.onnx", providers=["CPUExecutionProvider"])
    given = feeds(session, 2, 7)
    found = outputs(to_torch(model).eval(), given)["logits"].numpy()
    assert found.dtype == np.float64
    assert difference(found, session.run(["logits"], given)[0]) <= 1e-10


def merged():
    """Two layers whose biases were both zero, so that the exporter wrote one."""
    nodes = [
        ("MatMul", ["x", "w1"], ["a"], "", {}),
        ("Add", ["a", "zero"], ["b"], "", {}),
        ("MatMul", ["b", "w2"], ["c"], "", {}),
        ("Add", ["c", "zero"], ["y"], "", {}),
    ]
    constants = {"w1": floats(4, 4), "w2": floats(4, 4) + 1, "zero": np.zeros(4, np.float32)}
    return made(nodes, [("x", F32, ["b", 4])], constants)


def test_merged_weights_train_apart_and_are_one_again_while_equal(tmp_path):
    model = merged()
    module = to_torch(model)
    biases = [w for w in weights(module) if w.role == "bias"]
    assert len(biases) == 2
    gc.save(model, tmp_path / "before.onnx")
    gc.save(from_torch(model, module), tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()
    with torch.no_grad():
        module.get_parameter(biases[1].name).add_(1.0)
    back = from_torch(model, module)
    assert sorted(back.constants()) == ["w1", "w2", "zero", "zero@1"]
    gc.save(back, tmp_path / "trained.onnx")
    x = floats(3, 4)
    (found,) = onnxruntime.InferenceSession(tmp_path / "trained.onnx").run(None, {"x": x})
    assert_close(module(x=torch.from_numpy(x))["y"].detach().numpy(), found)
    both = pack(model, {"w1": floats(4, 4), "w2": floats(4, 4), "zero": np.ones(4, np.float32)})
    assert np.array_equal(both.constants()["zero"], np.ones(4, np.float32))


def test_a_layer_applied_twice_stays_tied_and_what_was_merged_with_it_does_not():
    """TorchScript gives the second use of a matrix, and a bias that it merged, through an Identity (ALBERT)."""
    nodes = [
        ("Identity", ["w"], ["again"], "", {}),
        ("Identity", ["zero"], ["merged"], "", {}),
        ("MatMul", ["x", "w"], ["a"], "", {}),
        ("Add", ["a", "zero"], ["b"], "", {}),
        ("MatMul", ["b", "again"], ["c"], "", {}),
        ("Add", ["c", "zero"], ["d"], "", {}),
        ("Mul", ["d", "d"], ["e"], "", {}),
        ("Add", ["e", "merged"], ["y"], "", {}),
    ]
    model = made(nodes, [("x", F32, ["b", 4])], {"w": floats(4, 4), "zero": np.zeros(4, np.float32)})
    module = to_torch(model)
    assert sorted(n for w in weights(module) for n, _ in w.initializers) == ["w", "zero", "zero@1"]
    assert all(a.tobytes() == from_torch(model, module).constants()[n].tobytes() for n, a in model.constants().items())


@pytest.mark.parametrize(("mask", "one_call"), [((1, 1, 3, 5), True), ((1, 2, 3, 5), True), (("b", 1, 3, 5), False)])
def test_a_mask_that_makes_more_scores_of_them_is_no_mask(mask, one_call):
    """Queries and keys of a batch of one, and one mask for each row of a larger batch: it broadcasts the scores."""
    nodes = [
        ("Transpose", ["k"], ["t"], "", {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["q", "t"], ["s"], "", {}),
        ("Add", ["s", "m"], ["masked"], "", {}),
        ("Softmax", ["masked"], ["p"], "", {"axis": -1}),
        ("MatMul", ["p", "k"], ["y"], "", {}),
    ]
    model = made(nodes, [("q", F32, [1, 2, 3, 4]), ("k", F32, [1, 2, 5, 4]), ("m", F32, list(mask))], {})
    module = to_torch(model)
    assert ("scaled_dot_product_attention(" in module.code) == one_call
    sizes = [3 if n == "b" else n for n in mask]
    given = {"q": floats(1, 2, 3, 4), "k": floats(1, 2, 5, 4), "m": floats(*sizes)}
    assert_close(outputs(module, given)["y"].numpy(), open_session(model).run(given)["y"])


def test_a_norm_with_another_epsilon_or_power_is_left_as_it_is():
    def norm(power):
        nodes = [
            ("Pow", ["x", "power"], ["squares"], "", {}),
            ("ReduceMean", ["squares"], ["mean"], "", {"axes": [-1], "keepdims": 1}),
            ("Add", ["mean", "eps"], ["shifted"], "", {}),
            ("Sqrt", ["shifted"], ["root"], "", {}),
            ("Div", ["x", "root"], ["normed"], "", {}),
            ("Mul", ["normed", "g"], ["y"], "", {}),
        ]
        constants = {"power": np.float32(power), "eps": np.float32(1e-5), "g": floats(4)}
        return to_torch(made(nodes, [("x", F32, ["b", 4])], constants)).code

    assert "RMSNorm(4, eps=1e-05)" in norm(2)
    assert "RMSNorm" not in norm(4)
    assert "rms_norm" not in norm(4)


def test_an_activation_that_is_nearly_gelu_is_left_as_it_is():
    def code(root):
        nodes = [
            ("MatMul", ["x", "w"], ["h"], "", {}),
            ("Div", ["h", "root"], ["scaled"], "", {}),
            ("Erf", ["scaled"], ["e"], "", {}),
            ("Add", ["e", "one"], ["f"], "", {}),
            ("Mul", ["h", "f"], ["m"], "", {}),
            ("Mul", ["m", "half"], ["y"], "", {}),
        ]
        numbers = {"root": np.float32(root), "one": np.float32(1), "half": np.float32(0.5)}
        return to_torch(made(nodes, [("x", F32, ["b", 4])], {**numbers, "w": floats(4, 4)})).code

    assert "F.gelu(" in code(np.sqrt(2))
    assert "F.gelu(" not in code(1.42)
