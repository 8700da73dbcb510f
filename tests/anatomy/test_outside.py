"""Attentions of no block are named, as a target for heads is not theirs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.outside import _handed_on
from graphclone.errors import InvalidTarget
from tests import hand_made
from tests.hand_made import FFN, HEADS, HIDDEN, LAYERS, Maker, norm, transformer, verified
from tests.tiny_models import assemble, info


def pooled(made: Maker, x: str) -> list[onnx.ValueInfoProto]:
    """A learned query gathers the stream: as wide as a head and no stream."""
    keys = made.op("Transpose", made.linear(x, "pool.k", HIDDEN, 8), perm=[0, 2, 1])
    scores = made.op("MatMul", made.weight("pool.query", 1, 1, 8), keys)
    weights = made.op("Softmax", scores, axis=-1)
    made.op("MatMul", weights, made.linear(x, "pool.v", HIDDEN, 8), out="pooled")
    return [info("pooled", shape=("batch", 1, 8))]


def test_an_attention_that_pools_is_said_to_be_in_no_block():
    proto = transformer(tail=pooled)
    (note,) = inspect(graph.from_proto(proto)).notes
    assert note.startswith("the attention at Softmax node ")
    assert note.endswith("is in no block: a target for heads leaves it as it is")
    clone = verified(proto, hidden=8, heads=2, kv_heads=2)
    assert clone.constants()["pool.k"].shape == (8, 8)


def test_attentions_of_blocks_and_probabilities_of_classes_are_not_named():
    def classes(made: Maker, x: str) -> list[onnx.ValueInfoProto]:
        logits = made.linear(x, "classes", HIDDEN, 5)
        made.op(
            "MatMul", made.op("Softmax", logits, axis=-1), made.constant(np.eye(5), np.float32), out="probabilities"
        )
        return [info("probabilities", shape=("batch", "length", 5))]

    for tail in (None, classes):
        assert inspect(graph.from_proto(transformer(hand_made.attention, tail=tail))).notes == ()


def one_more_layer(made: Maker, x: str) -> list[onnx.ValueInfoProto]:
    """On the stream, but made otherwise than the blocks before."""
    x = made.op("Add", x, made.op("Tanh", hand_made.attention(made, norm(made, x, "more.first"), "more.attention")))
    x = made.op("Add", x, made.op("Tanh", hand_made.feed_forward(made, norm(made, x, "more.second"), "more.ffn")))
    made.op("MatMul", x, made.weight("head", HIDDEN, 5), out="logits")
    return [info("logits", shape=("batch", "length", 5))]


LEFT_OUT = {"heads": 2, "kv_heads": 2, "head_dim": 2, "ffn": 8, "layers": 2}


def test_a_layer_that_is_in_no_block_is_named_and_what_it_has_is_not_cut():
    proto = transformer(tail=one_more_layer)
    anatomy = inspect(graph.from_proto(proto))
    assert [len(stack.blocks) for stack in anatomy.stacks] == [LAYERS]
    assert [(part.kind, part.size) for part in anatomy.outside] == [("attention", 0), ("ffn", FFN)]
    assert [note.partition(": ")[2] for note in anatomy.notes] == [
        "a target for heads, head_dim or layers is refused",
        "a target for ffn or layers is refused",
    ]
    for name, size in LEFT_OUT.items():
        at = "MatMul node 'node.MatMul" if name == "ffn" else "Softmax node 'node.Softmax"
        with pytest.raises(InvalidTarget, match=f"^{name}: the .* at {at}.* in none of the blocks"):
            hand_made.cut(proto, **{name: size})


def test_beside_a_layer_in_no_block_what_leaves_it_right_is_cut():
    proto = transformer(tail=one_more_layer)
    clone = verified(proto, hidden=8, heads=HEADS, ffn="100%", layers=LAYERS)
    assert clone.constants()["more.ffn.up"].shape == (8, FFN)
    clone = verified(proto, ffn=f"0-{LAYERS - 1}:8", keep_blocks="0,2")
    assert clone.constants()["more.ffn.up"].shape == (HIDDEN, FFN)
    assert clone.constants()["0.ffn.up"].shape == (HIDDEN, 8)


def test_a_projection_out_of_the_stream_and_one_into_it_before_are_no_feed_forward():
    """ALBERT: the table of words is narrower than the stream, and the head reads it again."""
    proto = transformer(tail=back_to_words)
    before = onnx.helper.make_node("MatMul", ["narrow", "words.in"], [proto.graph.node[0].output[0]])
    proto.graph.node[0].input[0], proto.graph.node[0].output[0] = "narrow words", "narrow"
    proto.graph.node.insert(1, before)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn(6, HIDDEN), "words.in"))
    anatomy = inspect(graph.from_proto(proto))
    assert (anatomy.outside, anatomy.notes) == ((), ())
    verified(proto, ffn=8, layers=2)


def back_to_words(made: Maker, x: str) -> list[onnx.ValueInfoProto]:
    made.held["narrow words"] = drawn(hand_made.VOCAB, 6)
    tied = made.op("Transpose", "narrow words", perm=[1, 0])
    made.op("MatMul", made.linear(x, "words.out", HIDDEN, 6), tied, out="logits")
    return [info("logits", shape=("batch", "length", hand_made.VOCAB))]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_an_attention_that_shares_a_part_of_its_neurons_with_a_block_is_named_too():
    """Its values are made by a block's weights, so heads go with the block's; queries and keys are its own."""

    def shared(made: Maker, x: str) -> list[onnx.ValueInfoProto]:
        y = norm(made, x, "more.first")
        q, k, _ = hand_made.split_heads(made, y, "more.attention")
        _, _, v = hand_made.split_heads(made, y, "0.attention")
        weights = made.op("Softmax", made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        y = made.op("Tanh", hand_made.merge_heads(made, made.op("MatMul", weights, v), "more.attention"))
        made.op("MatMul", made.op("Add", x, y), made.weight("head", HIDDEN, 5), out="logits")
        return [info("logits", shape=("batch", "length", 5))]

    anatomy = inspect(graph.from_proto(transformer(tail=shared)))
    assert [len(stack.blocks) for stack in anatomy.stacks] == [LAYERS]
    assert [part.kind for part in anatomy.outside] == ["attention"]


def test_what_a_softmax_gives_is_followed_through_types_and_shapes():
    made = Maker()
    cast = made.op("Cast", made.op("Softmax", "x", out="shares"), to=onnx.TensorProto.FLOAT16)
    back = made.op("Cast", cast, to=onnx.TensorProto.FLOAT)
    made.op("Reshape", back, made.constant([0, -1]), out="flat")
    proto = assemble(made.nodes, made.held, inputs=[info("x", shape=(2, 3))], outputs=[info("flat", shape=(2, 3))])
    softmax = gs.import_onnx(proto).nodes[0]
    assert list(_handed_on(softmax)) == ["shares", cast, back, "flat"]
