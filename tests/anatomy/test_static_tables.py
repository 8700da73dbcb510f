"""What is made of weights alone is the same whatever is fed, and so no stream, whichever operator made it."""

from __future__ import annotations

import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from tests.hand_made import DIM, FFN, HEADS, HIDDEN, LAYERS, merge_heads, norm, split_heads, transformer, verified

NORMED = {
    "LayerNormalization": lambda made, table: norm(made, table, "relative"),
    "Softmax": lambda made, table: made.op("Softmax", table, axis=0),
    "Einsum": lambda made, table: made.op(
        "Einsum", table, made.weight("relative.turn", HIDDEN, HIDDEN), equation="th,hk->tk"
    ),
}


def relative(kind):
    """As DeBERTa attends: a table of relative positions, normalised once, beside the keys of every block."""
    tables = []

    def attention(made, x, stem):
        if not tables:
            tables.append(NORMED[kind](made, made.weight("relative", 3, HIDDEN)))
        q, k, v = split_heads(made, x, stem)
        keys = made.linear(tables[0], f"{stem}.k", HIDDEN, HEADS * DIM)  # so as wide as the stream
        keys = made.op("Reshape", keys, made.constant([1, 3, HEADS, DIM]))
        here = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2]))
        there = made.op("MatMul", q, made.op("Transpose", keys, perm=[0, 2, 3, 1]))
        there = made.op("ReduceMax", there, axes=[-1], keepdims=1)
        weights = made.op("Softmax", made.op("Add", here, there), axis=-1)
        return merge_heads(made, made.op("MatMul", weights, v), stem)

    return attention


@pytest.mark.parametrize("kind", NORMED)
def test_a_table_normalised_once_and_read_by_every_block_is_no_stream(kind):
    proto = transformer(relative(kind))
    (stack,) = inspect(graph.from_proto(proto)).stacks
    assert [(len(b.attention), len(b.feed_forward)) for b in stack.blocks] == [(1, 1)] * LAYERS
    constants = verified(proto, ffn=FFN // 2).constants()
    assert {constants[f"{k}.ffn.up"].shape for k in range(LAYERS)} == {(HIDDEN, FFN // 2)}
