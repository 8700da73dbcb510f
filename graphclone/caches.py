"""Sizes of a KV cache whose declaration leaves them open, read off the attention that it feeds.

onnxruntime-genai declares ``past_key_values.0.key [batch_size, 4, past_sequence_length, kv_cache_dim]``: three symbols,
the last of which is no length. With a sliding window the cache is a fixed-size ring, so a length of 0 cannot empty it.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

Dim = int | str | None
PAST_KEY, PAST_VALUE = 3, 4  # inputs of com.microsoft GroupQueryAttention (onnxruntime/docs/ContribOperators.md)


def cache_shape(tensor: gs.Tensor, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """``shape`` with its last axis known, where ``tensor`` is the past of an attention that counts its heads, and its
    length, where that past is a ring."""
    if len(shape) != 4:
        return shape
    for node in tensor.outputs:
        if node.op == "GroupQueryAttention" and any(node.inputs[k] is tensor for k in (PAST_KEY, PAST_VALUE)):
            length = int(node.attrs["local_window_size"]) if node.attrs.get("sliding_window_cache") else shape[2]
            return (*shape[:2], length, shape[3] if isinstance(shape[3], int) else _head_width(node))
    return shape


def rings(graph: gs.Graph) -> dict[str, str]:
    """Caches of a sliding window among the outputs, with the inputs that they follow. What lies beyond the tokens seen
    so far is whatever the caller's buffer held."""
    ends = [{t.name for t in side} for side in (graph.outputs, graph.inputs)]
    return {
        present.name: node.inputs[past].name
        for node in graph.nodes
        if node.attrs.get("sliding_window_cache")
        for present, past in zip(node.outputs[1:], (PAST_KEY, PAST_VALUE), strict=False)
        if present.name in ends[0] and node.inputs[past].name in ends[1]
    }


def _head_width(node: gs.Node) -> int | None:
    """Columns of the query projection, over its heads; with keys and values packed behind them, over all heads."""
    heads, kv_heads = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    packed = node.inputs[1].is_empty()
    columns = _columns(node.inputs[0])
    return columns and columns // (heads + 2 * kv_heads if packed else heads)


def _columns(tensor: gs.Tensor) -> int | None:
    """The last axis as declared, or that of the weight or bias that makes it."""
    declared = tensor.shape[-1] if tensor.shape else None
    if isinstance(declared, int) and declared > 0:
        return declared
    operands = tensor.inputs[0].inputs if tensor.inputs else []
    return next((int(o.shape[-1]) for o in operands if isinstance(o, gs.Constant) and o.shape), None)
