"""Weights that hide: the same parent with its weights behind something, or as something else, is cut the same way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx.numpy_helper import from_array, to_array

import models
from graphclone import graph, pipeline
from graphclone.feeds import tiny_feeds
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.verification import reading
from graphclone.verification.sessions import open_session
from tests.tolerances import assert_close

make = oh.make_node
PARENTS = ("bert", "llama")
MICROSOFT = oh.make_opsetid("com.microsoft", 1)


@cache
def plain(name):
    return onnx.load(models.cached(name, exporter="torchscript"))


def matrices(proto):
    """(node, position of the weight, array) of each product with an initializer."""
    held = {t.name: t for t in proto.graph.initializer}
    for node in list(proto.graph.node):
        if node.op_type == "MatMul" and node.input[1] in held:
            yield node, to_array(held[node.input[1]])


def add(proto, name, array):
    proto.graph.initializer.append(from_array(np.ascontiguousarray(array), name))
    return name


def before(proto, node, *new):
    place = next(k for k, n in enumerate(proto.graph.node) if n.output[0] == node.output[0])
    for shift, made in enumerate(new):
        proto.graph.node.insert(place + shift, made)


def rounded(array, axis=None):
    """int8 and its scale, of the tensor or of each position of an axis."""
    others = None if axis is None else tuple(k for k in range(array.ndim) if k != axis)
    scale = np.abs(array).max(axis=others, keepdims=True).astype(np.float32) / 127
    return np.round(array / scale).astype(np.int8), scale.reshape(-1) if axis is not None else scale.reshape(())


def by_channel(proto):
    for node, array in matrices(proto):
        name = node.input[1]
        integers, scale = rounded(array, axis=1)
        zero = np.arange(scale.size).astype(np.int8) % 3
        ends = [add(proto, f"{name}.q", integers + zero), add(proto, f"{name}.s", scale), add(proto, f"{name}.z", zero)]
        before(proto, node, make("DequantizeLinear", ends, [f"{name}.d"], axis=1))
        node.input[1] = f"{name}.d"


def by_tensor(proto):
    for node, array in matrices(proto):
        name = node.input[1]
        integers, scale = rounded(array)
        ends = [add(proto, f"{name}.q", integers), add(proto, f"{name}.s", scale)]
        before(proto, node, make("DequantizeLinear", ends, [f"{name}.d"]))
        node.input[1] = f"{name}.d"


def by_block(proto):
    """Scales for four neighbours along the input axis."""
    proto.opset_import.append(MICROSOFT)
    for node, array in matrices(proto):
        name = node.input[1]
        blocks = array.reshape(-1, 4, array.shape[1])
        scale = np.abs(blocks).max(axis=1).astype(np.float32) / 127
        integers = np.round(array / np.repeat(scale, 4, axis=0)).astype(np.int8)
        ends = [add(proto, f"{name}.q", integers), add(proto, f"{name}.s", scale)]
        before(proto, node, make("DequantizeLinear", ends, [f"{name}.d"], axis=0, block_size=4, domain="com.microsoft"))
        node.input[1] = f"{name}.d"


def with_activations(proto):
    """Static quantisation: weights by channel, and what they multiply rounded as well."""
    by_channel(proto)
    step, zero = add(proto, "step", np.array(0.05, np.float32)), add(proto, "zero", np.array(3, np.int8))
    for node in [n for n in proto.graph.node if n.op_type == "MatMul" and n.input[1].endswith(".d")]:
        stem = node.output[0]
        quantised = make("QuantizeLinear", [node.input[0], step, zero], [f"{stem}.aq"])
        before(proto, node, quantised, make("DequantizeLinear", [f"{stem}.aq", step, zero], [f"{stem}.ad"]))
        node.input[0] = f"{stem}.ad"


def behind_movement(proto):
    """float16 behind Cast, transposed behind Transpose, then Identity."""
    for node, array in matrices(proto):
        name = node.input[1]
        turned = add(proto, f"{name}.t", array.T.astype(np.float16))
        before(
            proto,
            node,
            make("Cast", [turned], [f"{name}.c"], to=onnx.TensorProto.FLOAT),
            make("Transpose", [f"{name}.c"], [f"{name}.u"], perm=[1, 0]),
            make("Identity", [f"{name}.u"], [f"{name}.i"]),
        )
        node.input[1] = f"{name}.i"


def constant_nodes(proto):
    """No initializer at all, as Paddle writes."""
    tensors = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for tensor in reversed(tensors):
        proto.graph.node.insert(0, make("Constant", [], [tensor.name], value=tensor))


def functions(proto):
    """Each product is a call of a local function, which calls another."""
    proto.opset_import.append(oh.make_opsetid("local", 1))
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("local", 1)]
    inner = oh.make_function("local", "Inner", ["a", "b"], ["c"], [make("MatMul", ["a", "b"], ["c"])], opsets[:1])
    outer = oh.make_function(
        "local", "Product", ["x", "w"], ["y"], [make("Inner", ["x", "w"], ["y"], domain="local")], opsets
    )
    proto.functions.extend([inner, outer])
    for node, _ in matrices(proto):
        node.op_type, node.domain = "Product", "local"


def constant_branches(proto):
    """Each product in the branch of an If that is always taken, chosen by Not(False)."""
    add(proto, "never", np.array(False))
    proto.graph.node.insert(0, make("Not", ["never"], ["always"]))
    for node, _ in matrices(proto):
        stem = node.output[0]
        bodies = []
        for op in ("MatMul", "Sub"):
            out = oh.make_tensor_value_info(f"{stem}.{op}", onnx.TensorProto.FLOAT, None)
            bodies.append(oh.make_graph([make(op, list(node.input), [f"{stem}.{op}"])], op, [], [out]))
        chosen = make("If", ["always"], [stem], then_branch=bodies[0], else_branch=bodies[1])
        place = list(proto.graph.node).index(node)
        del proto.graph.node[place]
        proto.graph.node.insert(place, chosen)


def four_bits(proto):
    """ONNX Runtime's own weight-only format, two numbers a byte and a scale for 16 neighbours."""
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    made = quantizer.MatMulNBitsQuantizer(proto, block_size=16, is_symmetric=False)
    made.process()
    proto.CopyFrom(made.model.model)
    assert any(n.op_type == "MatMulNBits" for n in proto.graph.node)


def dynamic(proto, folder):
    """ONNX Runtime's dynamic quantisation: products of integers, the activations rounded as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = folder / "source.onnx", folder / "target.onnx"
    onnx.save(proto, source)
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    proto.CopyFrom(onnx.load(target))
    assert any(n.op_type == "MatMulInteger" for n in proto.graph.node)


DISGUISES = (
    by_channel, by_tensor, by_block, with_activations, behind_movement, constant_nodes, functions, constant_branches,
    four_bits,
)  # fmt: skip
INTEGERS = (by_channel, by_tensor, with_activations)  # the rest are floats, or become floats
READ_AS_FLOATS = (by_block, four_bits)


def shown(anatomy):
    (stack,) = anatomy.stacks
    parts = [(a.heads, a.kv_heads, a.head_dim, a.rotary) for b in stack.blocks for a in b.attention]
    parts += [(f.ffn, f.gated) for b in stack.blocks for f in b.feed_forward]
    groups = sorted((g.kind, g.size) for g in anatomy.groups.values() if not g.pinned)
    return stack.hidden, len(stack.blocks), parts, groups, anatomy.parameters


def as_it_stands(model):
    """ONNX Runtime's own fusions of integer products round activations, each order of neurons in its own way."""
    return open_session(model, threads=1, optimise=False).run(tiny_feeds(model))


def assert_permutable(model, anatomy):
    rng = np.random.default_rng(0)
    keep = {g.name: tuple(map(int, rng.permutation(g.size))) for g in anatomy.groups.values() if not g.pinned}
    moved = as_it_stands(pipeline.clone(model, Plan(anatomy.fingerprint, keep, method="none"), anatomy=anatomy))
    orders = {"last_hidden_state": keep[anatomy.stacks[0].residual], "pooler_output": keep.get("tail")}
    for name, wanted in as_it_stands(model).items():
        assert_close(moved[name], np.take(wanted, orders[name], axis=-1) if name in orders else wanted)


def examined(model, name):
    """Same anatomy as the plain file, every permutation harmless, a verified clone of another shape."""
    anatomy = pipeline.inspect(model)
    assert shown(anatomy) == shown(pipeline.inspect(graph.from_proto(plain(name))))
    assert_permutable(model, anatomy)
    target = Target(hidden="50%", heads="50%", ffn="60%", layers=2)
    plan = pipeline.plan(anatomy, None, target, importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    return anatomy, made


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("disguise", DISGUISES, ids=lambda d: d.__name__)
def test_a_weight_is_found_wherever_it_hides(name, disguise):
    proto = onnx.ModelProto()
    proto.CopyFrom(plain(name))
    disguise(proto)
    anatomy, made = examined(graph.from_proto(proto), name)
    assert ("int8" in anatomy.stored) == (disguise in INTEGERS)
    assert bool(anatomy.notes) == (disguise in READ_AS_FLOATS)
    types = {a.dtype.name for a in made.constants().values() if a.ndim == 2 and a.size > 100}
    assert ("int8" in types) == (disguise in INTEGERS)


@pytest.mark.parametrize("name", PARENTS)
def test_products_of_integers_are_cut_too(name, tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(plain(name))
    dynamic(proto, tmp_path)
    examined(graph.from_proto(proto), name)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [64, 80])  # whole blocks of 32, and a last one that is padded
def test_four_bits_as_onnxruntime_genai_ties_them(tmp_path, hidden):
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install it")
    from tools.zoo.genai import build_folder
    from tools.zoo.rows import ROWS

    llama = ROWS["llama"]
    tied = replace(llama, settings={**llama.settings, "tie_word_embeddings": True})
    blocks = ("shared_embeddings=true", "int4_op_types_to_quantize=MatMul/Gather", "int4_block_size=32")
    build_folder(tied, replace(tied.sizes, hidden=hidden), tmp_path, *blocks, precision="int4")
    held = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert "GatherBlockQuantized" in {node.op_type for node in held.graph.node}
    model = graph.load(tmp_path / "model.onnx")
    anatomy = pipeline.inspect(model)
    assert anatomy.stacks[0].hidden == hidden
    target = Target(hidden="50%", kv_heads="50%", ffn="60%", layers=2)
    plan = pipeline.plan(anatomy, None, target, importance="uniform", method="none")
    report = pipeline.verify(model, pipeline.clone(model, plan, anatomy=anatomy), plan)
    report.raise_if_failed()
    assert reading.NAME in {check.name for check in report.checks if check.passed}
