"""What older operator sets, lists and rarer forms of an operator write: cut, and equal to the zeroed parent."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphclone import graph, pipeline
from tests import hand_made
from tests.hand_made import DIM, FFN, HEADS, HIDDEN, transformer, verified
from tests.tiny_models import info


def scaled(made, x, value):
    """The stream and a number that comes from elsewhere, of no weight in it."""
    return made.op("Add", x, made.op("Mul", value, made.constant(0.1, np.float32)))


def before_ffn(change):
    """Something in front of each feed-forward."""
    return lambda made, x, stem: hand_made.feed_forward(made, change(made, x), stem)


def test_classes_that_answer_with_their_names():
    def tail(made, x):
        made.held["names"] = np.array([f"class {k}" for k in range(200)], dtype=object)
        summary = made.op("Gather", x, made.constant(0), axis=1)
        made.op("MatMul", summary, made.weight("classes", HIDDEN, 200), out="scores")
        made.op("Gather", "names", made.op("ArgMax", "scores", axis=-1, keepdims=0), out="name")
        return [info("scores", shape=("batch", 200)), info("name", onnx.TensorProto.STRING, ("batch",))]

    verified(transformer(tail=tail), ffn=12, hidden=8)


@pytest.mark.parametrize("lengths", [(1, 2), (1, 1)], ids=["of several lengths", "of one length"])
def test_lists_of_sizes(lengths):
    """TorchScript's lists of tensors."""

    def sizes(made, x):
        shape = made.op("Shape", "input_ids")
        parts = [made.op("Slice", shape, made.constant([0]), made.constant([n])) for n in lengths]
        batch = made.op("SequenceAt", made.op("SequenceConstruct", *parts), made.constant(0))
        return scaled(made, x, made.op("Cast", batch, to=onnx.TensorProto.FLOAT))

    verified(transformer(feed_forward=before_ffn(sizes)), ffn=12, heads=2)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], None], ids=str)
def test_images_resized_along_some_axes(axes):
    def resized(made, x):
        image = made.weight("image", 1, 1, 3, 3)
        sizes, named = made.constant([4, 4] if axes else [1, 1, 4, 4]), {"axes": axes} if axes else {}
        grown = made.op("Resize", image, "", "", sizes, mode="linear", **named)
        return scaled(made, x, made.op("ReduceSum", grown, keepdims=0))

    verified(transformer(feed_forward=before_ffn(resized), opset=18), ffn=12, heads=2)


def gained(made, x, stem):
    """A norm that operator sets below 17 can write."""
    return made.op("Mul", x, made.weight(f"{stem}.gain", HIDDEN))


def test_images_resized_by_the_first_resize(monkeypatch):
    monkeypatch.setattr(hand_made, "norm", gained)

    def resized(made, x):
        grown = made.op("Resize", made.weight("image", 1, 1, 3, 3), made.constant([1, 1, 2, 2], np.float32))
        return scaled(made, x, made.op("ReduceSum", grown, keepdims=0))

    verified(transformer(feed_forward=before_ffn(resized), opset=10), ffn=12, heads=2)


def test_slices_whose_places_are_attributes(monkeypatch):
    """Halves of a packed product, as operator sets below 10 take them; one slice says no axes."""
    monkeypatch.setattr(hand_made, "norm", gained)

    def gated(made, x, stem):
        both = made.linear(x, f"{stem}.up", HIDDEN, 2 * FFN)
        up = made.op("Slice", both, axes=[-1], starts=[0], ends=[FFN])
        gate = made.op("Slice", both, starts=[0, 0, FFN], ends=[2**31 - 1] * 3)
        inner = made.op("Mul", up, made.op("Sigmoid", gate))
        return made.linear(inner, f"{stem}.down", FFN, HIDDEN)

    verified(transformer(feed_forward=gated, opset=9), ffn=12, heads=2)


@pytest.mark.parametrize("axis", [2, 1, None])
def test_what_an_old_softmax_normalises_stays(monkeypatch, axis):
    """Below operator set 13 all axes from the one named on are one, the second where none is."""
    monkeypatch.setattr(hand_made, "norm", gained)

    def normalised(made, x, stem):
        wide = made.linear(x, f"{stem}.up", HIDDEN, FFN)
        by_token = made.op("Reshape", wide, made.constant([0, -1, FFN // 4, 4]))
        weights = made.op("Softmax", by_token, **({} if axis is None else {"axis": axis}))
        flat = made.op("Reshape", weights, made.constant([0, 0, FFN]))
        return made.linear(flat, f"{stem}.down", FFN, HIDDEN)

    def attention(made, x, stem):
        q, k, v = hand_made.split_heads(made, x, stem)
        scores = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2]))
        weights = made.op("Softmax", scores, axis=3)
        return hand_made.merge_heads(made, made.op("MatMul", weights, v), stem)

    proto = transformer(attention, normalised, opset=12)
    groups = pipeline.inspect(graph.from_proto(proto)).groups.values()
    assert {g.kind for g in groups if not g.pinned} == {"head", "qk_dim", "v_dim", "residual"}
    assert any("normalised by Softmax" in g.pinned for g in groups if g.pinned)
    verified(proto, heads=2)


@pytest.mark.parametrize("axes", [(HEADS, 1, 1), (1, HEADS, 1, 1)], ids=str)
def test_what_is_added_to_the_scores_of_each_head(axes):
    """A slope a head (ALiBi), with or without an axis for the batch."""

    def sloped(made, x, stem):
        q, k, v = (made.linear(x, f"{stem}.{part}", HIDDEN, HEADS * DIM) for part in "qkv")
        length = made.op("Squeeze", made.op("Shape", x, start=1, end=2))
        places = made.op("Cast", made.op("Range", made.constant(0), length, made.constant(1)), to=1)
        apart = [made.op("Unsqueeze", places, made.constant([axis])) for axis in (0, 1)]
        bias = made.op("Mul", made.weight(f"{stem}.slope", *axes), made.op("Sub", *apart))
        context = made.op("Attention", q, k, v, bias, q_num_heads=HEADS, kv_num_heads=HEADS)
        return made.linear(context, f"{stem}.o", HEADS * DIM, HIDDEN)

    proto = transformer(sloped, opset=23)
    proto.ir_version = 10
    verified(proto, heads=2)
    verified(proto, hidden=8, ffn=12)
