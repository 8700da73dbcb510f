"""A short decoder beside its encoder, whose cross-attentions make keys and values in one product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from graphclone import graph, pipeline
from graphclone.anatomy import inspect
from graphclone.planner import Target
from tests.surgery.parents import session
from tests.surgery.tied import FFN, HEADS, HIDDEN, LAYERS, ORDER, VOCAB, Decoder
from tests.tolerances import assert_close

INFO = onnx.helper.make_tensor_value_info
TOKENS = ("input_ids", "decoder_input_ids")


@dataclass
class Translator(Decoder):
    """``packing``: how keys and values of an encoder's output are taken apart."""

    packing: str = "split"

    def cross(self, x, memory, i):
        packed = self.add("MatMul", [memory, self.weight(f"kv{i}", HIDDEN, 2 * HIDDEN)], f"kv{i}.made")
        if self.packing == "split":
            flat = [f"kv{i}.k", f"kv{i}.v"]
            self.nodes.append(onnx.helper.make_node("Split", [packed], flat, f"kv{i}.node", axis=-1))
        else:
            self.weights |= {"pair": np.array([0, 0, 2, -1]), "item0": np.array(0), "item1": np.array(1)}
            turned = self.add("Reshape", [packed, "pair"], f"kv{i}.pair")
            turned = self.add("Transpose", [turned], f"kv{i}.first", perm=[2, 0, 1, 3])
            flat = [self.add("Gather", [turned, f"item{k}"], f"kv{i}.{n}", axis=0) for k, n in enumerate("kv")]
        k, v = (self.shaped(t, [0, 2, 3, 1] if n == "k" else ORDER) for t, n in zip(flat, "kv", strict=True))
        q = self.heads(self.norm(x, f"crossed{i}"), f"cq{i}", ORDER)
        shares = self.add("Softmax", [self.add("MatMul", [q, k], f"cscores{i}")], f"cshares{i}", axis=-1)
        context = self.add("Transpose", [self.add("MatMul", [shares, v], f"cc{i}")], f"cturned{i}", perm=ORDER)
        joined = self.add("Reshape", [context, "join"], f"cjoined{i}")
        out = self.add("MatMul", [joined, self.weight(f"co{i}", HIDDEN, HIDDEN)], f"cattended{i}")
        return self.add("Add", [x, out], f"cmiddle{i}")

    def shaped(self, x, order):
        return self.add("Transpose", [self.add("Reshape", [x, "split"], f"{x}.heads")], f"{x}.turned", perm=order)


def translator(packing):
    made = Translator(packing=packing)
    table = made.weight("embed", VOCAB, HIDDEN)
    x, y = (made.add("Gather", [table, ids], f"{ids}.embedded") for ids in TOKENS)
    for i in range(LAYERS):
        x = made.feed_forward(made.attention(x, i), i)
    memory = made.norm(x, "memory")
    for i in range(LAYERS, 2 * LAYERS):
        y = made.feed_forward(made.cross(made.attention(y, i), memory, i), i)
    made.add("MatMul", [made.norm(y, "final"), made.weight("head", HIDDEN, VOCAB)], "logits")
    shaped = onnx.helper.make_graph(
        made.nodes,
        "translator",
        [INFO(n, onnx.TensorProto.INT64, ["batch", f"{n}_length"]) for n in TOKENS],
        [INFO("logits", onnx.TensorProto.FLOAT, ["batch", "decoder_input_ids_length", VOCAB])],
        [onnx.numpy_helper.from_array(a, n) for n, a in made.weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    return graph.from_proto(onnx.helper.make_model(shaped, opset_imports=opsets, ir_version=9))  # noqa: TID251  by hand


@pytest.mark.parametrize("packing", ["split", "items"])
def test_both_stacks_are_found_and_cut(packing):
    model = translator(packing)
    anatomy = inspect(model)
    assert [len(stack.blocks) for stack in anatomy.stacks] == [LAYERS, LAYERS]
    assert [len(b.attention) for stack in anatomy.stacks for b in stack.blocks] == [1, 1, 2, 2]
    assert all(a.heads == HEADS for stack in anatomy.stacks for b in stack.blocks for a in b.attention)
    plan = pipeline.plan(anatomy, None, Target(ffn=FFN // 2), importance="first", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    for i in range(2 * LAYERS):
        assert made.constants()[f"up{i}"].shape == (HIDDEN, FFN // 2)
    silent = model.copy()
    for name, tensor in silent.graph.tensors().items():
        if name.startswith("down"):
            tensor.values = np.where(np.arange(FFN)[:, None] < FFN // 2, tensor.values, 0).astype(np.float32)
    rng = np.random.default_rng(0)
    fed = {name: rng.integers(0, VOCAB, (2, length)) for name, length in zip(TOKENS, (5, 4), strict=True)}
    assert_close(session(made).run(None, fed)[0], session(silent).run(None, fed)[0])
