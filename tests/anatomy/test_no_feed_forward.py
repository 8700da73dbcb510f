"""What writes the stream and is no feed-forward, what multiplies two activations and is no attention."""

from __future__ import annotations

import pytest

from graphclone import graph, pipeline
from graphclone.errors import InvalidTarget
from tests.hand_made import (
    DIM,
    FFN,
    HEADS,
    HIDDEN,
    VOCAB,
    Maker,
    attention,
    feed_forward,
    merge_heads,
    split_heads,
    transformer,
    verified,
)

RANK = 6


def gated(made: Maker, x: str, stem: str) -> str:
    gate = made.op("Sigmoid", made.linear(x, f"{stem}.gate", HIDDEN, HIDDEN))
    return made.op("Mul", gate, feed_forward(made, x, stem))


def with_linear_layer(made: Maker, x: str, stem: str) -> str:
    return made.op("Add", made.linear(x, f"{stem}.linear", HIDDEN, HIDDEN), feed_forward(made, x, stem))


def bottleneck(made: Maker, x: str, stem: str, into: int = HIDDEN) -> str:
    hidden = made.op("Relu", made.linear(x, f"{stem}.into", into, RANK))
    return made.linear(hidden, f"{stem}.out", RANK, HIDDEN)


def adapted(part):
    def build(made: Maker, x: str, stem: str) -> str:
        out = part(made, x, stem)
        return made.op("Add", out, bottleneck(made, out, f"{stem}.adapter"))

    return build


def with_squeezed_gate(made: Maker, x: str, stem: str) -> str:
    out = feed_forward(made, x, stem)
    return made.op("Mul", out, made.op("Sigmoid", bottleneck(made, out, f"{stem}.adapter")))


def attention_with_update(made: Maker, x: str, stem: str) -> str:
    """A low-rank update of the output projection, written before it."""
    q, k, v = split_heads(made, x, stem)
    weights = made.op("Softmax", made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    context = made.op("Transpose", made.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    flat = made.op("Reshape", context, made.constant([0, 0, -1]))
    low = made.linear(made.linear(flat, f"{stem}.adapter.into", HEADS * DIM, RANK), f"{stem}.adapter.out", RANK, HIDDEN)
    return made.op("Add", low, made.linear(flat, f"{stem}.o", HEADS * DIM, HIDDEN))


def feed_forward_with_update(made: Maker, x: str, stem: str) -> str:
    hidden = made.op("Relu", made.linear(x, f"{stem}.up", HIDDEN, FFN))
    low = made.linear(made.linear(hidden, f"{stem}.adapter.into", FFN, RANK), f"{stem}.adapter.out", RANK, HIDDEN)
    return made.op("Add", low, made.linear(hidden, f"{stem}.down", FFN, HIDDEN))


def conditioned(made: Maker, x: str, stem: str) -> str:
    """Each block's scale is made from one table that is no stream."""
    condition = made.op("Gather", made.weight("conditions", VOCAB, RANK), "input_ids")
    return made.op("Mul", feed_forward(made, x, stem), made.linear(condition, f"{stem}.scale", RANK, HIDDEN))


def normed_by_head(made: Maker, x: str, stem: str) -> str:
    q, k, v = split_heads(made, x, stem)
    weights = made.op("Softmax", made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    gain, bias = made.weight(f"{stem}.gain", HEADS), made.weight(f"{stem}.bias", HEADS)
    return merge_heads(made, made.op("InstanceNormalization", made.op("MatMul", weights, v), gain, bias), stem)


def experts(made: Maker, x: str, stem: str) -> str:
    """The weights of one expert are looked up for each token."""
    chosen = made.op("ArgMax", made.linear(x, f"{stem}.router", HIDDEN, 3), axis=-1, keepdims=0)
    first = made.op("Gather", made.weight(f"{stem}.first", 3, HIDDEN, FFN), chosen)
    second = made.op("Gather", made.weight(f"{stem}.second", 3, FFN, HIDDEN), chosen)
    hidden = made.op("Relu", made.op("MatMul", made.op("Unsqueeze", x, made.constant([2])), first))
    return made.op("Squeeze", made.op("MatMul", hidden, second), made.constant([2]))


def sigmoid_attention(made: Maker, x: str, stem: str) -> str:
    """Beside a softmax over something else."""
    q, k, v = split_heads(made, x, stem)
    weights = made.op("Sigmoid", made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2])))
    shares = made.op("Softmax", made.linear(x, f"{stem}.shares", HIDDEN, HIDDEN), axis=1)
    return made.op("Mul", merge_heads(made, made.op("MatMul", weights, v), stem), shares)


@pytest.mark.parametrize(
    "parts",
    [
        {"feed_forward": gated},
        {"feed_forward": with_linear_layer},
        {"feed_forward": adapted(feed_forward)},
        {"feed_forward": with_squeezed_gate},
        {"feed_forward": feed_forward_with_update},
        {"feed_forward": conditioned},
        {"attention": adapted(attention)},
        {"attention": attention_with_update},
        {"attention": normed_by_head},
        {"attention": sigmoid_attention},
    ],
    ids=lambda parts: next(iter(parts.values())).__qualname__.split(".")[0],
)
def test_ffn_cuts_the_feed_forward_alone(parts):
    constants = verified(transformer(**parts), ffn=12).constants()
    assert constants["words"].shape == (VOCAB, HIDDEN)
    assert constants["1.ffn.up"].shape == (HIDDEN, 12)
    assert all(RANK in a.shape for name, a in constants.items() if "adapter" in name or name == "conditions")


@pytest.mark.parametrize("part", [adapted(attention), attention_with_update], ids=["behind", "beside"])
@pytest.mark.parametrize("target", ["drop_attention", "drop_ffn"])
def test_what_adapts_an_attention_goes_with_it_and_with_nothing_else(part, target):
    left = {name.removeprefix("1.") for name in verified(transformer(part), **{target: "1"}).constants()}
    assert ("attention.adapter.out" in left) == ("attention.o" in left) == (target == "drop_ffn")
    assert ("ffn.up" in left) == (target == "drop_attention")


def test_what_updates_a_feed_forward_goes_with_it():
    left = verified(transformer(feed_forward=feed_forward_with_update), drop_ffn="1").constants()
    assert not [name for name in left if name.startswith("1.ffn")]


def test_heads_normed_apart_are_dropped_with_their_attention():
    left = verified(transformer(normed_by_head), drop_attention="1").constants()
    assert not [name for name in left if name.startswith("1.attention")]


def test_products_with_looked_up_experts_are_no_attention():
    model = graph.from_proto(transformer(feed_forward=experts))
    for block in pipeline.inspect(model).stacks[0].blocks:
        (found,) = block.attention
        assert (found.heads, found.head_dim) == (HEADS, DIM)


def test_what_weighs_without_a_softmax_is_not_cut_as_heads():
    with pytest.raises(InvalidTarget, match="heads: nothing in this model"):
        verified(transformer(sigmoid_attention), heads=2)


def mixing_heads(made: Maker, x: str, stem: str) -> str:
    q, k, v = split_heads(made, x, stem)
    scores = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = made.op("Einsum", scores, made.weight(f"{stem}.mix", HEADS, HEADS), equation="bhij,hg->bgij")
    weights = made.op("Softmax", mixed, axis=-1)
    return merge_heads(made, made.op("MatMul", weights, v), stem)


def test_heads_that_a_matrix_mixes_stay_with_the_reason():
    with pytest.raises(InvalidTarget, match="mixed with others by Einsum node"):
        verified(transformer(mixing_heads), heads=2)
    words = verified(transformer(mixing_heads), hidden=8, ffn=12).constants()["words"]
    assert words.shape == (VOCAB, 8)
