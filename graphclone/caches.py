"""The width of a head in a KV cache whose declaration leaves it open, read off the attention that it feeds.

onnxruntime-genai declares ``past_key_values.0.key [batch_size, 4, past_sequence_length, kv_cache_dim]``: three symbols,
of which the last is no length.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

Dim = int | str | None
PAST_KEY, PAST_VALUE = 3, 4  # inputs of com.microsoft GroupQueryAttention (onnxruntime/docs/ContribOperators.md)


def cache_shape(tensor: gs.Tensor, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """``shape`` with its last axis known, where ``tensor`` is the past of an attention that counts its heads."""
    if len(shape) != 4 or isinstance(shape[-1], int):
        return shape
    for node in tensor.outputs:
        if node.op == "GroupQueryAttention" and any(node.inputs[k] is tensor for k in (PAST_KEY, PAST_VALUE)):
            return (*shape[:-1], _head_width(node))
    return shape


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
