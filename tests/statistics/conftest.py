"""A hand-made parent (embedding, one feed-forward block, head) with its anatomy, and its activations in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from graphclone.anatomy.parts import Anatomy, AxisRef, Block, FeedForward, Linear, NeuronGroup, Site, Stack
from graphclone.graph import Model

Array = np.ndarray[Any, Any]
VOCAB, HIDDEN, FFN = 300, 6, 8  # the embedding is large enough to be handed to ONNX Runtime, not copied


@dataclass
class Hand:
    """``flat``: the feed-forward runs on [batch * length, hidden], as GPT-2 exports do."""

    dtype: type = np.float32
    opset: int = 18
    flat: bool = False

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        shapes = {"embed": (VOCAB, HIDDEN), "up": (HIDDEN, FFN), "down": (FFN, HIDDEN), "head": (HIDDEN, VOCAB)}
        self.weights = {name: rng.standard_normal(shape).astype(self.dtype) for name, shape in shapes.items()}

    def model(self) -> Model:
        held = {name: gs.Constant(name, array) for name, array in self.weights.items()}
        ids, mask = (gs.Variable(n, np.int64, ["batch", "length"]) for n in ("input_ids", "attention_mask"))
        v = {n: gs.Variable(n, self.dtype) for n in ("embedded", "x", "u", "a", "d", "folded", "y")}
        logits = gs.Variable("logits", self.dtype, ["batch", "length", VOCAB])
        seen = gs.Variable("seen", self.dtype, ["batch", "length"])
        to = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))
        nodes = [
            gs.Node("Gather", "embedding", {}, [held["embed"], ids], [v["embedded"]]),
            gs.Node("Cast", "seeing", {"to": to}, [mask], [seen]),
        ]
        x = v["embedded"]
        if self.flat:
            nodes.append(gs.Node("Reshape", "flatten", {}, [x, gs.Constant("flat", np.array([-1, HIDDEN]))], [v["x"]]))
            x = v["x"]
        nodes += [
            gs.Node("MatMul", "up_matmul", {}, [x, held["up"]], [v["u"]]),
            gs.Node("Relu", "relu", {}, [v["u"]], [v["a"]]),
            gs.Node("MatMul", "down_matmul", {}, [v["a"], held["down"]], [v["d"]]),
            gs.Node("Add", "residual", {}, [x, v["d"]], [v["y"]]),
            gs.Node("MatMul", "head_matmul", {}, [v["y"], held["head"]], [logits]),
        ]
        return Model(gs.Graph(nodes, [ids, mask], [logits, seen], opset=self.opset, ir_version=8))

    def anatomy(self, model: Model) -> Anatomy:
        residual = NeuronGroup("residual", "residual", HIDDEN, (AxisRef("embed", 1), AxisRef("down", 1)))
        ffn = NeuronGroup("blocks.0.ffn", "ffn", FFN, (AxisRef("up", 1), AxisRef("down", 0)), 0)
        vocabulary = NeuronGroup("other", "other", VOCAB, (AxisRef("embed", 0),), pinned="reaches output logits")
        along = np.arange
        sites = (
            Site("embedding.out", "writer", "embedded", -1, HIDDEN, None, {"residual": along(HIDDEN)}),
            Site("blocks.0.ffn.out", "writer", "d", -1, HIDDEN, 0, {"residual": along(HIDDEN)}),
            Site("blocks.0.ffn.in", "inner", "a", -1, FFN, 0, {"blocks.0.ffn": along(FFN)}),
        )
        part = FeedForward(FFN, False, ("up",), ("down",), "blocks.0.ffn")
        block = Block(0, "embedded", "y", ("u", "a", "d", "y"), (), (part,), ())
        axes = {
            AxisRef("embed", 1): (("residual", along(HIDDEN)),),
            AxisRef("down", 1): (("residual", along(HIDDEN)),),
            AxisRef("up", 0): (("residual", along(HIDDEN)),),
            AxisRef("up", 1): (("blocks.0.ffn", along(FFN)),),
            AxisRef("down", 0): (("blocks.0.ffn", along(FFN)),),
        }
        groups = {g.name: g for g in (residual, ffn, vocabulary)}
        stack = Stack("blocks", HIDDEN, "residual", (block,))
        linears = (
            Linear("u", "up", 0, 1, ("residual",), ("blocks.0.ffn",), "x" if self.flat else "embedded", "u"),
            Linear("d", "down", 0, 1, ("blocks.0.ffn",), ("residual",), "a", "d"),
        )
        return Anatomy(model.sha256, (stack,), groups, sites, linears, axes)

    def activations(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """float64, by site: only the positions that the mask keeps, [positions, width]."""
        kept = batch["attention_mask"].astype(bool)
        w = {name: array.astype(np.float64) for name, array in self.weights.items()}
        x = w["embed"][batch["input_ids"]][kept]
        a = np.maximum(x @ w["up"], 0)
        return {"embedding.out": x, "blocks.0.ffn.out": a @ w["down"], "blocks.0.ffn.in": a}


def padded_batches(count: int = 3, seed: int = 0) -> list[dict[str, Array]]:
    """Batches of different sizes, padded at the right and at the left."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        shape = (2 + number, 5 + 2 * number)
        mask = np.ones(shape, np.int64)
        mask[0, 3:], mask[1, :2] = 0, 0
        made.append({"input_ids": rng.integers(0, VOCAB, shape), "attention_mask": mask})
    return made


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def hands() -> type[Hand]:
    return Hand


@pytest.fixture
def batches() -> list[dict[str, Array]]:
    return padded_batches()
