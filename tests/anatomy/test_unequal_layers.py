"""Layers that differ a little are blocks each; where a block is several layers, a target for layers says so."""

from __future__ import annotations

import onnx
import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget
from tests.hand_made import (
    DIM,
    HIDDEN,
    LAYERS,
    VOCAB,
    Maker,
    cut,
    feed_forward,
    merge_heads,
    norm,
    split_heads,
    transformer,
    verified,
)
from tests.hand_made import attention as plain
from tests.tiny_models import assemble, info


def rotated(made: Maker, x: str, stem: str) -> str:
    """By a quarter turn of every pair, whatever the position."""
    q, k, v = split_heads(made, x, stem)
    half = [[made.constant([place]) for place in ends] for ends in ((0, DIM // 2), (DIM // 2, DIM))]
    axis = made.constant([3])
    turned = []
    for part in (q, k):
        first, second = (made.op("Slice", part, *ends, axis) for ends in half)
        other = made.op("Concat", made.op("Neg", second), first, axis=-1)
        turned.append(made.op("Add", made.op("Mul", part, scalar(made, 0.6)), made.op("Mul", other, scalar(made, 0.8))))
    scores = made.op("MatMul", turned[0], made.op("Transpose", turned[1], perm=[0, 1, 3, 2]))
    return merge_heads(made, made.op("MatMul", made.op("Softmax", scores, axis=-1), v), stem)


def scalar(made: Maker, number: float) -> str:
    return made.weight(f"turn.{number}", 1)


def every_other(one, other):
    def attention(made: Maker, x: str, stem: str) -> str:
        return (one if int(stem.partition(".")[0]) % 2 else other)(made, x, stem)

    return attention


def more_layers(attention, first, last):
    """The layers from ``first`` on, and the head."""

    def tail(made: Maker, x: str):
        x = made.nodes.pop().input[0]  # before the norm after the blocks
        for layer in range(first, last):
            x = made.op("Add", x, attention(made, norm(made, x, f"{layer}.first"), f"{layer}.attention"))
            x = made.op("Add", x, feed_forward(made, norm(made, x, f"{layer}.second"), f"{layer}.ffn"))
        made.op("MatMul", x, made.weight("head", HIDDEN, 5), out="logits")
        return [info("logits", shape=("batch", "length", 5))]

    return tail


@pytest.mark.parametrize("layers", [LAYERS, 6])
def test_layers_that_rotate_and_layers_that_do_not_are_blocks_each(layers):
    attention = every_other(rotated, plain)
    proto = transformer(attention, tail=more_layers(attention, LAYERS, layers))
    anatomy = inspect(graph.from_proto(proto))
    (stack,) = anatomy.stacks
    assert [(len(b.attention), len(b.feed_forward)) for b in stack.blocks] == [(1, 1)] * layers
    assert (anatomy.notes, stack.layers_each) == ((), 1)
    clone = verified(proto, layers=2, ffn=8)
    assert sum(node.op == "Softmax" for node in clone.graph.nodes) == 2


def capped(made: Maker, x: str, stem: str) -> str:
    """Another attention altogether."""
    return made.op("Tanh", plain(made, x, stem))


def test_as_many_layers_as_there_are_blocks_of_two_are_refused():
    attention = every_other(capped, plain)
    proto = transformer(attention, tail=more_layers(attention, LAYERS, 6))
    anatomy = inspect(graph.from_proto(proto))
    (stack,) = anatomy.stacks
    assert [len(b.attention) for b in stack.blocks] == [2, 2, 2]
    assert anatomy.notes == (
        "a block of blocks holds 2 attentions and feed-forwards: a target for layers counts blocks",
    )
    with pytest.raises(InvalidTarget, match=r"layers 3: layers counts blocks, .* nothing would be dropped"):
        cut(proto, layers=3)
    assert sum(node.op == "Softmax" for node in verified(proto, layers=2).graph.nodes) == 4


def twice_in_every_other(made: Maker) -> None:
    """Post-norm, with a second attention in every other layer (Q-Former)."""
    x = norm(made, made.op("Gather", made.weight("words", VOCAB, HIDDEN, scale=1.0), "input_ids"), "first")
    for layer in range(LAYERS):
        parts = [plain, *([capped] if layer % 2 == 0 else []), feed_forward]
        for k, part in enumerate(parts):
            x = norm(made, made.op("Add", x, part(made, x, f"{layer}.{k}")), f"{layer}.{k}.norm")
    made.op("MatMul", x, made.weight("head", HIDDEN, VOCAB), out="logits")


def test_blocks_are_layers_where_every_other_has_one_attention_more():
    made = Maker()
    twice_in_every_other(made)
    inputs = [info("input_ids", onnx.TensorProto.INT64, ("batch", "length"))]
    proto = assemble(made.nodes, made.held, inputs=inputs, outputs=[info("logits", shape=("batch", "length", VOCAB))])
    (stack,) = inspect(graph.from_proto(proto)).stacks
    assert [(len(b.attention), len(b.feed_forward)) for b in stack.blocks] == [(2, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("normed", [False, True])
def test_a_classifier_after_every_layer_leaves_the_layers_blocks_of_one_stack(normed):
    made = Maker()
    x = made.op("Gather", made.weight("words", VOCAB, HIDDEN, scale=1.0), "input_ids")
    for layer in range(LAYERS):
        for k, part in enumerate((plain, feed_forward)):
            x = made.op("Add", x, part(made, norm(made, x, f"{layer}.{k}.norm"), f"{layer}.{k}"))
        read = norm(made, x, f"{layer}.exit") if normed else x
        pooled = made.op("ReduceMean", read, axes=[1], keepdims=0)
        made.op("MatMul", pooled, made.weight(f"{layer}.classes", HIDDEN, 5), out=f"classes.{layer}")
    inputs = [info("input_ids", onnx.TensorProto.INT64, ("batch", "length"))]
    outputs = [info(f"classes.{layer}", shape=("batch", 5)) for layer in reversed(range(LAYERS))]
    proto = assemble(made.nodes, made.held, inputs=inputs, outputs=outputs)
    anatomy = inspect(graph.from_proto(proto))
    (stack,) = anatomy.stacks
    assert [(len(b.attention), len(b.feed_forward)) for b in stack.blocks] == [(1, 1)] * LAYERS
    assert (anatomy.outside, anatomy.notes) == ((), ())
    verified(proto, hidden=8, ffn=8, heads=2)
    assert sum(node.op == "Softmax" for node in cut(proto, layers=2)[0].graph.nodes) == 2
