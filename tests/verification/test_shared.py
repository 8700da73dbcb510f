"""Pre-norm blocks that read the same weights: what a dropped block reads is zero for it, and for it alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphclone import graph, pipeline
from graphclone.plan import Plan
from graphclone.verification import Verdict, claims, oracle
from tests import hand_made, tiny_models
from tests.hand_made import transformer


def one(part):
    """The same names in every block, and so the same weights."""
    return lambda made, x, stem: part(made, x, stem.partition(".")[2])


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hand_made, "norm", one(hand_made.norm))
        model = graph.from_proto(transformer(one(hand_made.attention), one(hand_made.feed_forward)))
    assert len(model.constants()["attention.q"]) == hand_made.HIDDEN
    return model, pipeline.inspect(model)


DROPS = [{"drop_blocks": (1,)}, {"drop_blocks": (0, 2)}, {"drop_attention": (0, 1)}, {"drop_feed_forward": (2,)}]


def made(shared, drops):
    model, anatomy = shared
    keep = {name: tuple(range(group.size // 2)) for name, group in anatomy.groups.items() if group.kind == "ffn"}
    dropped = {name: {anatomy.stacks[0].name: blocks} for name, blocks in drops.items()}
    return pipeline.clone(model, Plan(anatomy.fingerprint, keep, method="none", **dropped), anatomy=anatomy)


def examined(shared, clone):
    return oracle.examine(shared[0], clone, claims.read(clone))


@pytest.mark.parametrize("drops", DROPS, ids=str)
def test_what_is_dropped_adds_nothing(shared, drops):
    check = examined(shared, made(shared, drops))
    assert check.verdict is Verdict.PASSED, check


@pytest.mark.parametrize("drops", DROPS, ids=str)
def test_a_clone_that_computes_something_else_is_found(shared, drops):
    clone = made(shared, drops)
    next(node for node in reversed(clone.graph.nodes) if node.op == "Relu").op = "Tanh"
    assert examined(shared, clone).verdict is Verdict.FAILED


def test_a_clone_that_lacks_more_than_was_dropped_is_found(shared):
    clone = made(shared, {"drop_blocks": (1,)})
    norm = next(node for node in clone.graph.nodes if node.op == "LayerNormalization")
    del norm.inputs[2]  # its bias, which others still read
    assert examined(shared, clone).verdict is Verdict.FAILED


@pytest.mark.parametrize("drops", DROPS, ids=str)
def test_what_is_dropped_adds_nothing_where_all_read_one_cast_of_a_weight(drops):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hand_made, "norm", one(hand_made.norm))
        proto = transformer(one(hand_made.attention), one(hand_made.feed_forward))
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims:
            held = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(tiny_models.make("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(held, f"{tensor.name}.half"))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = graph.from_proto(proto)
    half = model, pipeline.inspect(model)
    check = examined(half, made(half, drops))
    assert check.verdict is Verdict.PASSED, check


def test_a_shared_bias_that_goes_with_its_branch_adds_nothing():
    """ALBERT as ONNX Runtime fuses it: the norm after a sum takes a branch's bias in, which every block shares."""

    def skipping(made, x, stem):
        gain, bias = made.weight(f"{stem}.gain", hand_made.HIDDEN), made.weight(f"{stem}.bias", hand_made.HIDDEN)
        shared = made.weight("attention.o.bias", hand_made.HIDDEN)
        branch = hand_made.attention(made, x, "attention")
        return made.op("SkipLayerNormalization", branch, x, gain, bias, shared, domain="com.microsoft", epsilon=1e-5)

    made = hand_made.Maker()
    x = made.op("Gather", made.weight("words", hand_made.VOCAB, hand_made.HIDDEN, scale=1.0), "input_ids")
    for layer in range(hand_made.LAYERS):
        x = skipping(made, x, f"{layer}.first")
        x = made.op("Add", x, hand_made.feed_forward(made, x, f"{layer}.ffn"))
        x = hand_made.norm(made, x, f"{layer}.second")
    made.op("MatMul", x, made.weight("head", hand_made.HIDDEN, hand_made.VOCAB), out="logits")
    logits, ids = ("batch", "length", hand_made.VOCAB), ("batch", "length")
    proto = tiny_models.assemble(
        made.nodes,
        made.held,
        inputs=[tiny_models.info("input_ids", onnx.TensorProto.INT64, ids)],
        outputs=[tiny_models.info("logits", shape=logits)],
        opsets=[hand_made.CONTRIB],
    )
    parent = graph.from_proto(proto)
    anatomy = pipeline.inspect(parent)
    plan = Plan(anatomy.fingerprint, {}, method="none", drop_attention={anatomy.stacks[0].name: (1,)})
    clone = pipeline.clone(parent, plan, anatomy=anatomy)
    assert [node.op for node in clone.graph.nodes].count("SkipLayerNormalization") == hand_made.LAYERS - 1
    check = oracle.examine(parent, clone, claims.read(clone))
    assert check.verdict is Verdict.PASSED, check
