"""Attentions of no block are named, as a target for heads is not theirs."""

from __future__ import annotations

import numpy as np
import onnx

from graphclone import graph
from graphclone.anatomy import inspect
from tests import hand_made
from tests.hand_made import HIDDEN, Maker, transformer, verified
from tests.tiny_models import info


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
