"""A hand-made decoder of two tiny blocks whose head is the embedding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from graphclone import graph
from graphclone.graph import Model

VOCAB, HIDDEN, FFN, HEADS, LAYERS = 13, 8, 12, 2, 2
INTS = {"split": [0, 0, HEADS, -1], "join": [0, 0, -1]}
ORDER = [0, 2, 1, 3]


@dataclass
class Decoder:
    """Nodes and weights, as they come. Without ``gain`` all norms share one tensor of ones; ``albert``: every block has
    the feed-forward weights of the first; ``quantised``: they are 8-bit integers times a number a neuron."""

    gain: bool = True
    albert: bool = False
    quantised: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=lambda: {n: np.array(v) for n, v in INTS.items()})
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, op, inputs, output, **attributes):
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=f"{output}.node", **attributes))
        return output

    def weight(self, name, *shape):
        self.weights[name] = self.rng.standard_normal(shape).astype(np.float32)
        return name

    def norm(self, x, name):
        if self.gain:
            parameters = [self.weight(f"{name}.gain", HIDDEN), self.weight(f"{name}.bias", HIDDEN)]
        else:
            self.weights["one"] = np.ones(HIDDEN, np.float32)
            parameters = ["one"]
        return self.add("LayerNormalization", [x, *parameters], name)

    def heads(self, x, name, order):
        flat = self.add("MatMul", [x, self.weight(f"{name}.weight", HIDDEN, HIDDEN)], f"{name}.flat")
        return self.add("Transpose", [self.add("Reshape", [flat, "split"], f"{name}.split")], name, perm=order)

    def attention(self, x, i):
        h = self.norm(x, f"before{i}")
        q, k, v = (self.heads(h, f"{n}{i}", [0, 2, 3, 1] if n == "k" else ORDER) for n in "qkv")
        shares = self.add("Softmax", [self.scores(q, k, i)], f"shares{i}", axis=-1)
        context = self.add("Transpose", [self.add("MatMul", [shares, v], f"context{i}")], f"turned{i}", perm=ORDER)
        flat = self.add("Reshape", [context, "join"], f"joined{i}")
        out = self.add("MatMul", [flat, self.weight(f"o{i}", HIDDEN, HIDDEN)], f"attended{i}")
        return self.add("Add", [x, out], f"middle{i}")

    def scores(self, q, k, i):
        return self.add("MatMul", [q, k], f"scores{i}")

    def inner(self, name, i, *shape):
        """A weight of the feed-forward, in one of the ways in which files hold them."""
        if self.quantised:
            self.weights[f"{name}{i}"] = self.rng.integers(-90, 90, shape).astype(np.int8)
            self.weights[f"{name}{i}.scale"] = self.rng.uniform(0.01, 0.02, shape[1]).astype(np.float32)
            wide = self.add("Cast", [f"{name}{i}"], f"{name}{i}.float", to=onnx.TensorProto.FLOAT)
            return self.add("Mul", [wide, f"{name}{i}.scale"], f"{name}{i}.real")
        if self.albert:
            return f"{name}0" if i else self.weight(f"{name}0", *shape)
        return self.weight(f"{name}{i}", *shape)

    def feed_forward(self, x, i):
        up = self.add("MatMul", [self.norm(x, f"between{i}"), self.inner("up", i, HIDDEN, FFN)], f"wide{i}")
        down = [self.add("Relu", [up], f"active{i}"), self.inner("down", i, FFN, HIDDEN)]
        return self.add("Add", [x, self.add("MatMul", down, f"narrow{i}")], f"after{i}")


def tied_parent(**how: bool) -> Model:
    return assembled(Decoder(**how))


def assembled(made: Decoder) -> Model:
    x = made.add("Gather", [made.weight("embed", VOCAB, HIDDEN), "input_ids"], "embedded")
    for i in range(LAYERS):
        x = made.feed_forward(made.attention(x, i), i)
    head = made.add("Transpose", ["embed"], "head", perm=[1, 0])
    made.add("MatMul", [made.norm(x, "final"), head], "logits")
    info = onnx.helper.make_tensor_value_info
    shaped = onnx.helper.make_graph(
        made.nodes,
        "tied",
        [info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [info("logits", onnx.TensorProto.FLOAT, ["batch", "sequence", VOCAB])],
        [onnx.numpy_helper.from_array(a, n) for n, a in made.weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    return graph.from_proto(onnx.helper.make_model(shaped, opset_imports=opsets, ir_version=9))  # noqa: TID251  by hand
