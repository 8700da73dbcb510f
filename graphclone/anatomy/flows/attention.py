"""Fused attention: the same facts as its decomposed form states, in one row an operator.

Contributed operators: onnxruntime/docs/ContribOperators.md; standard ones: onnx/docs/Operators.md (Attention-23,
RotaryEmbedding-23). Queries are [batch, token, head, head_dim] here, however an operator lays them out.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.flows.movement import reshaped, taken
from graphclone.anatomy.flows.table import first, row
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Trace, Value, describe, plain
from graphclone.errors import UnsupportedGraph

CONTRIB = "com.microsoft"


def by_head(trace: Trace, value: Value, heads: int) -> Value:
    """[batch, token, heads x d] or [batch, heads, token, d] as [batch, token, heads, d]."""
    if len(value.shape) == 4:
        order = (0, 2, 1, 3)
        return Value(tuple(value.shape[i] for i in order), tuple(value.factors[i] for i in order))
    return reshaped(trace, value, (*value.shape[:2], heads, value.shape[2] // heads))


def attend(trace: Trace, node: gs.Node, q: Value, k: Value, v: Value) -> Value:
    """Tie what an attention ties; returns the context [batch, token, heads, v_dim].

    A KV head serves ``heads / kv_heads`` queries in a row: query head = KV head and place in its group.
    """
    heads, kv_heads = q.shape[2], k.shape[2]
    trace.tie(node, q.axis(3), k.axis(3))
    trace.tie(node, k.axis(2), v.axis(2))
    shared: Factors = k.axis(2)
    if heads != kv_heads:
        group = heads // kv_heads
        place = np.tile(trace.ids.fresh(group), kv_heads)
        shared = (*(np.repeat(f, group) for f in k.axis(2)), place)
    trace.tie(node, q.axis(2), shared)
    trace.pin(k.axis(1) + v.axis(1), f"attended to by {describe(node)}")
    trace.note("attention", node, [q, k, v])
    return Value((*q.shape[:3], v.shape[3]), (q.axis(0), q.axis(1), q.axis(2) or shared, v.axis(3)))


def biased(trace: Trace, node: gs.Node, q: Value, bias: Value | None) -> None:
    """What is added to scores [batch, head, query, key] is aligned with them from the last axis on, and may differ from
    head to head; tokens it tells apart stay."""
    if bias is None:
        return
    rank = len(bias.shape)
    if rank > 2 and bias.shape[-3] == q.shape[2]:
        trace.tie(node, q.axis(2), bias.axis(-3))
    for axis in range(max(rank - 2, 0), rank):
        trace.pin(bias.axis(axis), f"attended to by {describe(node)}")


def merged(trace: Trace, context: Value) -> Value:
    return reshaped(trace, context, (*context.shape[:2], context.shape[2] * context.shape[3]))


def with_cache(trace: Trace, node: gs.Node, current: Value, past: Value | None) -> Value:
    """What a cache holds after this step: [batch, kv_head, past + token, d]; a ring keeps its length."""
    order = (0, 2, 1, 3)
    value = Value(tuple(current.shape[i] for i in order), tuple(current.factors[i] for i in order))
    if past is None:
        return value
    for axis in (1, 3):
        if past.axis(axis):  # a size that is declared as a symbol is whatever the caller brings
            trace.tie(node, value.axis(axis), past.axis(axis))
    held = past.shape[2] + (0 if node.attrs.get("sliding_window_cache") else value.shape[2])
    return Value((value.shape[0], value.shape[1], held, value.shape[3]), value.factors)


def optional(inputs: list[Value | None], index: int) -> Value | None:
    return inputs[index] if index < len(inputs) else None


def _outputs(node: gs.Node, *values: Value | None) -> list[Value]:
    """As many as the node has; an unnamed one may be anything."""
    held = [*values, *([None] * len(node.outputs))][: len(node.outputs)]
    for position, (tensor, value) in enumerate(zip(node.outputs, held, strict=True)):
        if tensor.name and value is None:
            raise UnsupportedGraph(f"{describe(node)}: its output {position}, {tensor.name!r}, is not understood")
    return [v if v is not None else plain(()) for v in held]


@row("Attention", domain=CONTRIB)
def packed_attention(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Holds its projection: weights [hidden, q + k + v], one bias."""
    x, weight, bias = first(node, inputs), inputs[1], optional(inputs, 2)
    if weight is None or optional(inputs, 4) is not None:
        raise UnsupportedGraph(f"{describe(node)}: with a packed past, or without weights, is not understood")
    heads = int(node.attrs["num_heads"])
    trace.note("product", node, [x, weight])
    trace.tie(node, x.axis(-1), weight.axis(0))
    if bias is not None:
        trace.tie(node, weight.axis(1), bias.axis(0))
    sizes = [int(s) for s in node.attrs.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3]
    packed = Value((*x.shape[:2], weight.shape[1]), (x.axis(0), x.axis(1), weight.axis(1)))
    ends = np.cumsum(sizes)
    parts = [taken(packed, 2, np.arange(e - s, e)) for s, e in zip(sizes, ends, strict=True)]
    q, k, v = (by_head(trace, p, heads) for p in parts)
    if node.attrs.get("do_rotary"):  # without tables: its angles follow from the width of a head
        trace.pin(q.axis(3) + k.axis(3), f"rotated inside {describe(node)}")
    biased(trace, node, q, optional(inputs, 5))
    context = attend(trace, node, q, k, v)
    trace.count(node, "num_heads", q.axis(2), heads)
    for place, part in enumerate(parts):
        trace.count(node, "qkv_hidden_sizes", part.axis(2), part.shape[2], place)
    return _outputs(node, merged(trace, context))


@row("MultiHeadAttention", domain=CONTRIB)
def multi_head_attention(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Separate queries, keys and values; an optional bias over all three, and one of the scores."""
    heads = int(node.attrs["num_heads"])
    query, key, value = first(node, inputs), optional(inputs, 1), optional(inputs, 2)
    if key is None or value is None or len(query.shape) != 3:
        raise UnsupportedGraph(f"{describe(node)}: packed keys and values are not understood")
    bias = optional(inputs, 3)
    if bias is not None and len(key.shape) == 3:
        ends = np.cumsum([query.shape[2], key.shape[2], value.shape[2]])
        for part, end in zip((query, key, value), ends, strict=True):
            trace.tie(node, part.axis(2), taken(bias, 0, np.arange(end - part.shape[2], end)).axis(0))
    q, k, v = (by_head(trace, p, heads) for p in (query, key, value))
    biased(trace, node, q, optional(inputs, 5))
    context = attend(trace, node, q, k, v)
    trace.count(node, "num_heads", q.axis(2), heads)
    caches = [with_cache(trace, node, p, optional(inputs, 6 + i)) for i, p in enumerate((k, v))]
    return _outputs(node, merged(trace, context), *caches)


@row("GroupQueryAttention", domain=CONTRIB)
def group_query_attention(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """Keys and values of fewer heads, a cache, and rotary embedding inside where do_rotary says so. A sink is one more
    score a head, of no token."""
    heads, kv_heads = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    query, key, value = first(node, inputs), optional(inputs, 1), optional(inputs, 2)
    if key is None or value is None:
        width = query.shape[2] // (heads + 2 * kv_heads)
        ends = np.cumsum([heads * width, kv_heads * width, kv_heads * width])
        sizes = (heads * width, kv_heads * width, kv_heads * width)
        query, key, value = (taken(query, 2, np.arange(e - s, e)) for s, e in zip(sizes, ends, strict=True))
    q, k, v = by_head(trace, query, heads), by_head(trace, key, kv_heads), by_head(trace, value, kv_heads)
    if node.attrs.get("do_rotary"):
        for part in (q, k):
            rotate(trace, node, part, optional(inputs, 7), optional(inputs, 8), node.attrs.get("rotary_interleaved", 0))
    biased(trace, node, q, optional(inputs, 10))
    sink = optional(inputs, 11)
    if sink is not None:
        trace.tie(node, q.axis(2), sink.axis(0))
    for part, gain in ((q, optional(inputs, 14)), (k, optional(inputs, 15))):  # normed inside, head by head
        if gain is not None:
            trace.tie(node, part.axis(3), gain.axis(0))
    if unread := [i for i, v in enumerate(inputs) if v is not None and v.labelled and i in (12, 13) or i > 15]:
        raise UnsupportedGraph(f"{describe(node)}: input {unread[0]} (scales of a quantised cache) is not understood")
    context = attend(trace, node, q, k, v)
    trace.count(node, "num_heads", q.axis(2), heads)
    trace.count(node, "kv_num_heads", k.axis(2), kv_heads)
    caches = [with_cache(trace, node, p, optional(inputs, 3 + i)) for i, p in enumerate((k, v))]
    return _outputs(node, merged(trace, context), *caches)


def rotate(
    trace: Trace, node: gs.Node, value: Value, cos: Value | None, sin: Value | None, interleaved: int, dim: int = 0
) -> None:
    """Rotary embedding pairs dimensions (i, i + r/2), or (2i, 2i + 1) interleaved, with column i of its tables."""
    if cos is None or sin is None:
        raise UnsupportedGraph(f"{describe(node)}: rotary embedding without tables")
    for table in (cos, sin):
        for rows in table.factors[:-1]:
            trace.pin(rows, f"looked up by {describe(node)}")
    half = (dim or 2 * cos.shape[-1]) // 2
    pairs = (np.arange(half) * 2, np.arange(half) * 2 + 1) if interleaved else (np.arange(half), np.arange(half) + half)
    for side in pairs:
        chosen = taken(value, len(value.shape) - 1, side).axis(-1)
        for table in (cos, sin):
            trace.tie(node, chosen, tuple(f[:half] for f in table.axis(-1)))


@row("RotaryEmbedding", domain=CONTRIB)
def contrib_rotary(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """input, position_ids, cos_cache, sin_cache."""
    return [_rotary(trace, node, first(node, inputs), optional(inputs, 2), optional(inputs, 3))]


@row("RotaryEmbedding")
def standard_rotary(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """X, cos_cache, sin_cache, position_ids."""
    return [_rotary(trace, node, first(node, inputs), optional(inputs, 1), optional(inputs, 2))]


def _rotary(trace: Trace, node: gs.Node, value: Value, cos: Value | None, sin: Value | None) -> Value:
    dim = int(node.attrs.get("rotary_embedding_dim", 0))
    heads = int(node.attrs.get("num_heads", 0))
    if len(value.shape) == 3:
        if not heads:
            width = dim or 2 * (cos.shape[-1] if cos else 0)
            heads = value.shape[2] // width
        split = by_head(trace, value, heads)
        if node.attrs.get("num_heads"):
            trace.count(node, "num_heads", split.axis(2), heads)
    else:
        split = by_head(trace, value, value.shape[1])
        if node.attrs.get("num_heads"):
            trace.count(node, "num_heads", split.axis(2), heads)
    rotate(trace, node, split, cos, sin, int(node.attrs.get("interleaved", 0)), dim)
    if dim:
        trace.count(node, "rotary_embedding_dim", taken(split, len(split.shape) - 1, np.arange(dim)).axis(-1), dim)
    return Value(value.shape, value.factors)


@row("Attention")
def standard_attention(trace: Trace, node: gs.Node, inputs: list[Value | None]) -> list[Value]:
    """ai.onnx Attention-23: Q, K, V of rank 3 (heads as attributes) or 4."""
    query, key, value = first(node, inputs), optional(inputs, 1), optional(inputs, 2)
    if key is None or value is None:
        raise UnsupportedGraph(f"{describe(node)}: needs keys and values")
    flat = len(query.shape) == 3
    heads = int(node.attrs["q_num_heads"]) if flat else query.shape[1]
    kv_heads = int(node.attrs["kv_num_heads"]) if flat else key.shape[1]
    q, k, v = by_head(trace, query, heads), by_head(trace, key, kv_heads), by_head(trace, value, kv_heads)
    biased(trace, node, q, optional(inputs, 3))
    context = attend(trace, node, q, k, v)
    if flat:
        trace.count(node, "q_num_heads", q.axis(2), heads)
        trace.count(node, "kv_num_heads", k.axis(2), kv_heads)
    caches = [with_cache(trace, node, p, optional(inputs, 4 + i)) for i, p in enumerate((k, v))]
    out = merged(trace, context) if flat else by_head(trace, context, heads)
    return _outputs(node, out, *caches)
