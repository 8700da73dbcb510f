"""A Llama-shaped ONNX graph of any size, written without a framework: decomposed RMSNorm, rotary and grouped queries.

The weights are float16 in external data, one file beside the model. They are a hole in it (a sparse file that takes no
disk, for measures that must not read weights) or one seeded block of normal numbers repeated, so that 14 GB are
written as fast as the disk takes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

BLOCK = 1 << 25  # numbers in the seeded block
DEVIATION = 0.02
PAGE = 4096


@dataclass(frozen=True)
class Sizes:
    """The shape of a Llama."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    head_dim: int = 128

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        return self.heads // self.kv_heads


SIZES = {
    "8B": Sizes(32, 4096, 32, 8, 14336, 128256),
    "7B": Sizes(32, 4096, 32, 32, 11008, 32000),
    "1B": Sizes(16, 2048, 32, 8, 8192, 128256, 64),
    "100M": Sizes(8, 768, 12, 4, 2048, 32000, 64),
    "tiny": Sizes(3, 64, 4, 2, 160, 500, 16),
}


def write(sizes: Sizes, path: Path, *, seed: int | None = 0) -> int:
    """Write the model and ``<name>.weights`` beside it; returns the bytes of weights. ``seed`` None leaves a hole."""
    builder = _Builder(path.name + ".weights")
    graph = _llama(builder, sizes)
    onnx.save(gs.export_onnx(graph), str(path))
    _fill(path.with_name(builder.location), builder.offset, seed)
    return builder.offset


def _fill(file: Path, size: int, seed: int | None) -> None:
    with file.open("wb") as stream:
        if seed is not None:
            numbers = np.random.default_rng(seed).standard_normal(min(BLOCK, size // 2), np.float32) * DEVIATION
            block = numbers.astype(np.float16).tobytes()
            for start in range(0, size, len(block)):
                stream.write(block[: size - start])
        stream.truncate(size)


class _Builder:
    """Nodes in order, weights with their places in the data file."""

    def __init__(self, location: str) -> None:
        self.location, self.offset, self.constants = location, 0, 0
        self.nodes: list[gs.Node] = []

    def weight(self, name: str, *shape: int) -> gs.Constant:
        tensor = onnx.TensorProto(
            name=name, dims=shape, data_type=onnx.TensorProto.FLOAT16, data_location=onnx.TensorProto.EXTERNAL
        )
        size = 2 * math.prod(shape)
        for key, value in (("location", self.location), ("offset", self.offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.offset += size + -size % PAGE
        return gs.Constant(name, LazyValues(tensor))

    def numbers(self, value: Any, dtype: Any = np.int64) -> gs.Constant:
        self.constants += 1
        return gs.Constant(f"constant_{self.constants}", np.asarray(value, dtype))

    def __call__(self, op: str, *inputs: Any, dtype: Any = np.float16, **attributes: Any) -> gs.Variable:
        held = [i if isinstance(i, gs.Tensor) else self.numbers(i) for i in inputs]
        name = f"{op.lower()}_{len(self.nodes)}"
        made = gs.Variable(f"{name}_output", dtype)
        self.nodes.append(gs.Node(op, name, attributes, held, [made]))
        return made


def _llama(b: _Builder, sizes: Sizes) -> gs.Graph:
    ids = gs.Variable("input_ids", np.int64, ["batch", "length"])
    embedding = b.weight("model.embed_tokens.weight", sizes.vocabulary, sizes.hidden)
    hidden = b("Gather", embedding, ids)
    length = b("Gather", b("Shape", ids, dtype=np.int64), np.int64(1), dtype=np.int64)
    tables = _rotary_tables(b, length, sizes.head_dim)
    mask = _causal(b, length)
    for layer in range(sizes.layers):
        name = f"model.layers.{layer}"
        normed = _norm(b, hidden, b.weight(f"{name}.input_layernorm.weight", sizes.hidden))
        hidden = b("Add", hidden, _attention(b, normed, f"{name}.self_attn", sizes, tables, mask))
        normed = _norm(b, hidden, b.weight(f"{name}.post_attention_layernorm.weight", sizes.hidden))
        hidden = b("Add", hidden, _feed_forward(b, normed, f"{name}.mlp", sizes))
    hidden = _norm(b, hidden, b.weight("model.norm.weight", sizes.hidden))
    logits = b("MatMul", hidden, b.weight("lm_head.weight", sizes.hidden, sizes.vocabulary))
    logits.name, logits.shape = "logits", ["batch", "length", sizes.vocabulary]
    return gs.Graph(b.nodes, [ids], [logits], name="llama", opset=17, ir_version=9, producer_name="benchmarks")


def _norm(b: _Builder, value: gs.Variable, gain: gs.Constant) -> gs.Variable:
    wide = b("Cast", value, dtype=np.float32, to=onnx.TensorProto.FLOAT)
    square = b("Pow", wide, b.numbers(2.0, np.float32), dtype=np.float32)
    mean = b("ReduceMean", square, dtype=np.float32, axes=[-1], keepdims=1)
    root = b("Sqrt", b("Add", mean, b.numbers(1e-5, np.float32), dtype=np.float32), dtype=np.float32)
    normed = b("Mul", wide, b("Reciprocal", root, dtype=np.float32), dtype=np.float32)
    return b("Mul", gain, b("Cast", normed, to=onnx.TensorProto.FLOAT16))


def _rotary_tables(b: _Builder, length: gs.Variable, head_dim: int) -> tuple[gs.Variable, gs.Variable]:
    """Cosine and sine, [1, 1, length, head_dim]."""
    frequencies = 10000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    positions = b("Range", np.int64(0), length, np.int64(1), dtype=np.int64)
    column = b("Unsqueeze", positions, [1], dtype=np.int64)
    angles = b("Cast", column, dtype=np.float32, to=onnx.TensorProto.FLOAT)
    angles = b("Mul", angles, b.numbers(frequencies, np.float32), dtype=np.float32)
    angles = b("Unsqueeze", b("Concat", angles, angles, dtype=np.float32, axis=-1), [0, 1], dtype=np.float32)
    cosine, sine = (b(op, angles, dtype=np.float32) for op in ("Cos", "Sin"))
    return b("Cast", cosine, to=onnx.TensorProto.FLOAT16), b("Cast", sine, to=onnx.TensorProto.FLOAT16)


def _causal(b: _Builder, length: gs.Variable) -> gs.Variable:
    """[length, length], minus infinity (of float16) above the diagonal."""
    square = b("Concat", *[b("Unsqueeze", length, [0], dtype=np.int64) for _ in range(2)], dtype=np.int64, axis=0)
    fill = onnx.numpy_helper.from_array(np.array([np.finfo(np.float16).min], np.float16))
    return b("Trilu", b("ConstantOfShape", square, value=gs.Constant("", LazyValues(fill))), np.int64(1), upper=1)


def _rotated(b: _Builder, value: gs.Variable, tables: Sequence[gs.Variable], head_dim: int) -> gs.Variable:
    half = head_dim // 2
    first = b("Slice", value, [0], [half], [3])
    second = b("Slice", value, [half], [head_dim], [3])
    turned = b("Concat", b("Neg", second), first, axis=-1)
    return b("Add", b("Mul", value, tables[0]), b("Mul", turned, tables[1]))


def _attention(
    b: _Builder, value: gs.Variable, name: str, sizes: Sizes, tables: Sequence[gs.Variable], mask: gs.Variable
) -> gs.Variable:
    def projected(which: str, heads: int) -> gs.Variable:
        weight = b.weight(f"{name}.{which}_proj.weight", sizes.hidden, heads * sizes.head_dim)
        split = b("Reshape", b("MatMul", value, weight), [0, 0, heads, sizes.head_dim])
        return b("Transpose", split, perm=[0, 2, 1, 3])  # [batch, heads, length, head_dim]

    queries = _rotated(b, projected("q", sizes.heads), tables, sizes.head_dim)
    keys = _rotated(b, projected("k", sizes.kv_heads), tables, sizes.head_dim)
    values = projected("v", sizes.kv_heads)
    if sizes.group > 1:
        keys, values = (_repeated(b, t, sizes) for t in (keys, values))
    scores = b("MatMul", queries, b("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = b("Mul", scores, b.numbers(sizes.head_dim**-0.5, np.float16))
    context = b("MatMul", b("Softmax", b("Add", scores, mask), axis=-1), values)
    joined = b("Reshape", b("Transpose", context, perm=[0, 2, 1, 3]), [0, 0, sizes.heads * sizes.head_dim])
    return b("MatMul", joined, b.weight(f"{name}.o_proj.weight", sizes.heads * sizes.head_dim, sizes.hidden))


def _repeated(b: _Builder, value: gs.Variable, sizes: Sizes) -> gs.Variable:
    """Each KV head once for each query head of its group."""
    spread = b("Expand", b("Unsqueeze", value, [2]), [1, 1, sizes.group, 1, 1])
    return b("Reshape", spread, [0, sizes.heads, -1, sizes.head_dim])


def _feed_forward(b: _Builder, value: gs.Variable, name: str, sizes: Sizes) -> gs.Variable:
    gate = b("MatMul", value, b.weight(f"{name}.gate_proj.weight", sizes.hidden, sizes.ffn))
    up = b("MatMul", value, b.weight(f"{name}.up_proj.weight", sizes.hidden, sizes.ffn))
    product = b("Mul", b("Mul", gate, b("Sigmoid", gate)), up)
    return b("MatMul", product, b.weight(f"{name}.down_proj.weight", sizes.ffn, sizes.hidden))
