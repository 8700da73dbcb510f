"""A hand-made parent (embedding, one feed-forward block, head) and hand-made clones of it: no surgery involved."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphclone import graph
from graphclone.plan import Plan

VOCAB, HIDDEN, FFN = 11, 6, 8

Weights = dict[str, np.ndarray[Any, Any]]


def weights(dtype: str = "float32") -> Weights:
    rng = np.random.default_rng(0)
    shapes = {
        "embed": (VOCAB, HIDDEN),
        "up": (HIDDEN, FFN),
        "up_bias": (FFN,),
        "down": (FFN, HIDDEN),
        "head": (HIDDEN, VOCAB),
    }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def assemble(held: Weights, dead: bool = False) -> onnx.ModelProto:
    make = onnx.helper.make_node
    nodes = [
        make("Gather", ["embed", "input_ids"], ["x"], name="embedding"),
        make("MatMul", ["x", "up"], ["u"], name="up_matmul"),
        make("Add", ["u", "up_bias"], ["v"], name="up_add"),
        make("Relu", ["v"], ["a"], name="relu"),
        make("MatMul", ["a", "down"], ["d"], name="down_matmul"),
        make("Add", ["x", "d"], ["y"], name="residual"),
        make("MatMul", ["y", "head"], ["logits"], name="head_matmul"),
    ]
    if dead:
        nodes.append(make("Neg", ["y"], ["nowhere"], name="dead_node"))
    kind = onnx.helper.np_dtype_to_tensor_dtype(held["embed"].dtype)
    made = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [onnx.helper.make_tensor_value_info("logits", kind, ["batch", "sequence", VOCAB])],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    return onnx.helper.make_model(  # noqa: TID251  made without any of graphclone
        made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )


@pytest.fixture
def parent() -> graph.Model:
    return graph.from_proto(assemble(weights()))


@pytest.fixture
def make_clone(parent: graph.Model) -> Callable[..., graph.Model]:
    """A right clone that keeps the given ffn neurons, spoiled by ``change(weights, metadata)`` where given."""

    def build(
        kept: tuple[int, ...] = (1, 2, 5, 7),
        change: Callable[[Weights, dict[str, Any]], None] | None = None,
        dead: bool = False,
    ) -> graph.Model:
        keep, held = list(kept), weights()
        held |= {"up": held["up"][:, keep], "up_bias": held["up_bias"][keep], "down": held["down"][keep]}
        takes = {
            "embed": [None, None],
            "up": [None, keep],
            "up_bias": [keep],
            "down": [keep, None],
            "head": [None, None],
        }
        plan = Plan(parent.sha256, {"block.0.ffn": kept}, method="none", target={"ffn": len(kept)})
        metadata: dict[str, Any] = {
            "plan": plan.to_json(),
            "parent_sha256": parent.sha256,
            "version": "0",
            "method": "none",
            "slices": {name: {"parent": name, "take": take, "scale": 1.0} for name, take in takes.items()},
        }
        if change:
            change(held, metadata)
        made = graph.from_proto(assemble(held, dead))
        for key, value in metadata.items():
            made.metadata[f"graphclone.{key}"] = value if isinstance(value, str) else json.dumps(value)
        return made

    return build
