"""Transformers written node by node, of whatever operators a test is about; and how they are cut and examined."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from graphclone import graph, pipeline
from graphclone.graph import Model
from graphclone.planner import Target
from graphclone.verification import Report
from tests.tiny_models import assemble, info, make

VOCAB, HIDDEN, HEADS, DIM, FFN, LAYERS = 40, 16, 4, 4, 24, 3
CONTRIB = onnx.helper.make_opsetid("com.microsoft", 1)
Part = Callable[["Maker", str, str], str]  # (maker, input, stem of the names) -> output


class Maker:
    """Nodes and weights, collected."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.held: dict[str, np.ndarray[Any, Any]] = {}

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One node; the name of its first output."""
        out = out or f"{kind}.{len(self.nodes)}"
        self.nodes.append(make(kind, list(inputs), [out], name=f"node.{out}", **attributes))
        return out

    def weight(self, name: str, *shape: int, scale: float = 0.3) -> str:
        """Normal numbers, of one name always the same."""
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        self.held[name] = (drawn * scale).astype(np.float32)
        return name

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        name = f"constant.{len(self.held)}"
        self.held[name] = np.asarray(values, dtype)
        return name

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        return self.op("MatMul", x, self.weight(name, rows, columns))


def norm(made: Maker, x: str, stem: str) -> str:
    return made.op("LayerNormalization", x, made.weight(f"{stem}.gain", HIDDEN), made.weight(f"{stem}.bias", HIDDEN))


def feed_forward(made: Maker, x: str, stem: str) -> str:
    return made.linear(made.op("Relu", made.linear(x, f"{stem}.up", HIDDEN, FFN)), f"{stem}.down", FFN, HIDDEN)


def split_heads(made: Maker, x: str, stem: str, width: int = HEADS * DIM) -> list[str]:
    """Queries, keys and values as [batch, head, token, dim]."""
    shape, flat = made.constant([0, 0, HEADS, -1]), (made.linear(x, f"{stem}.{part}", HIDDEN, width) for part in "qkv")
    return [made.op("Transpose", made.op("Reshape", part, shape), perm=[0, 2, 1, 3]) for part in flat]


def merge_heads(made: Maker, context: str, stem: str) -> str:
    flat = made.op("Reshape", made.op("Transpose", context, perm=[0, 2, 1, 3]), made.constant([0, 0, -1]))
    return made.linear(flat, f"{stem}.o", HEADS * DIM, HIDDEN)


def attention(made: Maker, x: str, stem: str) -> str:
    q, k, v = split_heads(made, x, stem)
    scores = made.op("MatMul", q, made.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = made.op("Softmax", made.op("Mul", scores, made.constant(DIM**-0.5, np.float32)), axis=-1)
    return merge_heads(made, made.op("MatMul", weights, v), stem)


def transformer(
    attention: Part = attention,
    feed_forward: Part = feed_forward,
    tail: Callable[[Maker, str], list[onnx.ValueInfoProto]] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Embedding, pre-norm blocks, norm, head; ``tail`` writes what stands there instead, and says the outputs."""
    made = Maker()
    x = made.op("Gather", made.weight("words", VOCAB, HIDDEN, scale=1.0), "input_ids")
    for layer in range(LAYERS):
        x = made.op("Add", x, attention(made, norm(made, x, f"{layer}.first"), f"{layer}.attention"))
        x = made.op("Add", x, feed_forward(made, norm(made, x, f"{layer}.second"), f"{layer}.ffn"))
    x = norm(made, x, "last")
    if tail is None:
        made.op("MatMul", x, made.weight("head", HIDDEN, VOCAB), out="logits")
    outputs = [info("logits", shape=("batch", "length", VOCAB))] if tail is None else tail(made, x)
    inputs = [info("input_ids", onnx.TensorProto.INT64, ("batch", "length"))]
    proto = assemble(made.nodes, made.held, inputs=inputs, outputs=outputs, opsets=[CONTRIB])
    proto.opset_import[0].version = opset
    return proto


def cut(proto: onnx.ModelProto, **target: Any) -> tuple[Model, Report]:
    """The first neurons of each group, as many as asked, and the examiner's report."""
    model = graph.from_proto(proto)
    anatomy = pipeline.inspect(model)
    plan = pipeline.plan(anatomy, None, Target(**target), importance="first", method="none")
    clone = pipeline.clone(model, plan, anatomy=anatomy)
    return clone, pipeline.verify(model, clone, plan)


def verified(proto: onnx.ModelProto, **target: Any) -> Model:
    """The clone, which passed every check, the one of its numbers among them."""
    clone, report = cut(proto, **target)
    report.raise_if_failed()
    skipped = [str(check) for check in report.checks if check.verdict.name == "NOT_APPLICABLE"]
    assert not skipped, skipped
    return clone
