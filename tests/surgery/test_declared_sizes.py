"""Symbolic sizes of values inside: PyTorch's dynamo calls heads folded into the batch "4*batch"."""

from __future__ import annotations

from tests.hand_made import DIM, HEADS, HIDDEN, merge_heads, split_heads, transformer, verified
from tests.tiny_models import info

FOLDED, LENGTH = f"{HEADS}*batch", "length"


def folded(made, x, stem):
    """[batch x heads, token, dim] products."""
    parts = []
    for part in split_heads(made, x, stem):
        length = made.op("Shape", part, start=2, end=3)
        shape = made.op("Concat", made.constant([-1]), length, made.constant([DIM]), axis=0)
        parts.append(made.op("Reshape", part, shape, out=f"{part}.folded"))
    q, k, v = parts
    scores = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 2, 1]), out=f"{stem}.scores")
    context = made.op("MatMul", made.op("Softmax", scores, axis=-1), v, out=f"{stem}.context")
    apart = made.op("Concat", made.constant([-1, HEADS]), length, made.constant([DIM]), axis=0)
    return merge_heads(made, made.op("Reshape", context, apart), stem)


def declared():
    proto = transformer(folded)
    for name in [name for node in proto.graph.node for name in node.output]:
        if name.endswith((".folded", ".context")):
            proto.graph.value_info.append(info(name, shape=(FOLDED, LENGTH, DIM)))
        elif name.endswith(".scores"):
            proto.graph.value_info.append(info(name, shape=(FOLDED, LENGTH, LENGTH)))
        elif name.startswith("LayerNormalization"):
            proto.graph.value_info.append(info(name, shape=("batch", LENGTH, HIDDEN)))
    return proto


def test_a_size_that_was_cut_is_no_longer_said_to_be_the_others():
    """By these names ONNX Runtime plans which values share memory."""
    clone = verified(declared(), heads="2,4,4")
    shapes = {name: tensor.shape for name, tensor in clone.graph.tensors().items()}
    scores = [shapes[f"{layer}.attention.scores"] for layer in range(3)]
    assert scores == [[None, LENGTH, LENGTH], [FOLDED, LENGTH, LENGTH], [FOLDED, LENGTH, LENGTH]]
    norms = [shape for name, shape in shapes.items() if name.startswith("LayerNormalization")]
    assert norms
    assert all(shape == ["batch", LENGTH, HIDDEN] for shape in norms)
