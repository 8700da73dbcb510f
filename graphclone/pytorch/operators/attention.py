"""Fused attention and rotary embeddings, of the standard and of ONNX Runtime; grouped_attention.py has the largest.

Names of shapes: B batch, S queries, T keys, P past, N heads, K key/value heads, D head size, H hidden.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.arithmetic import multiply
from graphclone.pytorch.operators.rows import CONTRIB, Call, row
from graphclone.pytorch.values import Scalar


def split_heads(x_BSH: Any, call: Call, heads: int) -> Any:
    """[B, S, N * D] -> [B, N, S, D]."""
    return x_BSH.reshape([call.size(x_BSH, 0), call.size(x_BSH, 1), heads, -1]).transpose(1, 2)


def merge_heads(x_BNSD: Any, call: Call) -> Any:
    batch, length = call.size(x_BNSD, 0), call.size(x_BNSD, 2)
    return x_BNSD.transpose(1, 2).reshape([batch, length, -1])


def length_of(call: Call, past_BNPD: Any) -> Scalar:
    """How many keys a cache holds; 0 without one."""
    return 0 if past_BNPD is None else call.size(past_BNPD, 2)


def causal_mask(call: Call, q_BNSD: Any, k_BNTD: Any, past: Scalar = 0) -> Any:
    """[S, T]: query i stands behind ``past`` keys and sees them, itself, and what lies between, however many keys
    there are (onnx Attention-23, onnxruntime).
    """
    queries, keys = call.size(q_BNSD, 2), call.size(k_BNTD, 2)
    rows = call.recorder.call(torch.arange, queries, device=call.recorder.device).unsqueeze(1)
    columns = call.recorder.call(torch.arange, keys, device=call.recorder.device).unsqueeze(0)
    return columns <= (rows if type(past) is int and past == 0 else rows + past)


def attend(q: Any, k: Any, v: Any, mask: Any, scale: Any, **options: Any) -> Any:
    """A mask is boolean (true = seen; rows that see nothing give zeros) or added."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, **options)


def attend_capped(call: Call, q: Any, k: Any, v: Any, seen: Any, added: Any, cap: float, scale: float | None) -> Any:
    """Scores kept between -cap and cap by a tanh, before they are masked (arXiv 2408.00118, section 2)."""
    scale = scale or call.recorder.call(_root_of, call.size(q, 3))
    scores_BNST = torch.tanh(torch.matmul(q, k.transpose(-1, -2)) * scale / cap) * cap
    if added is not None:
        scores_BNST = scores_BNST + added
    if seen is None:
        return torch.matmul(torch.softmax(scores_BNST, -1), v)
    shares_BNST = torch.softmax(torch.where(seen, scores_BNST, -math.inf), -1)
    return torch.matmul(torch.where(seen, shares_BNST, 0.0), v)  # no number in rows that see nothing: zeros instead


def _root_of(size: int) -> float:
    return float(size**-0.5)


def repeated(call: Call, x_BKTD: Any, heads: Scalar, kv_heads: Scalar) -> Any:
    """Each key/value head once for every query head of its group."""
    if heads is kv_heads or (isinstance(heads, int) and heads == kv_heads):
        return x_BKTD
    return x_BKTD.repeat_interleave(call.recorder.call(operator.floordiv, heads, kv_heads), dim=1)


def refuse_inputs(call: Call, **inputs: Any) -> None:
    given = [name for name, value in inputs.items() if value is not None]
    if given:
        raise call.refuse(f"the input {', '.join(given)} (not needed for training: export without it)")


@row("Attention", 1, domain=CONTRIB, biases=(2,))
def packed_attention(
    call: Call, x: Any, weight: Any, bias: Any = None, mask: Any = None, past: Any = None, added: Any = None, *rest: Any
) -> Any:
    """One packed projection [H, 3H], then self-attention; the mask is [B, T] of ones for tokens (onnxruntime)."""
    refuse_inputs(call, past=past, **{f"input {i + 6}": r for i, r in enumerate(rest)})
    call.refuse_outputs({1: "present"})
    heads = int(call.attr("num_heads"))
    if call.attr("do_rotary", 0):
        raise call.refuse("do_rotary")
    packed = torch.matmul(x, weight)
    packed = packed if bias is None else packed + bias
    sizes = call.attr("qkv_hidden_sizes")
    pieces = torch.split(packed, list(sizes), -1) if sizes is not None else torch.chunk(packed, 3, -1)
    q, k, v = (split_heads(pieces[i], call, heads) for i in range(3))
    added = _pushed_down(call, mask, k, added, call.dtype(x))
    seen = causal_mask(call, q, k) if call.attr("unidirectional", 0) else None
    return merge_heads(attend(q, k, v, with_bias(seen, added), scale_of(call)), call)


def _pushed_down(call: Call, mask: Any, k_BNTD: Any, added: Any, dtype: torch.dtype) -> Any:
    """What is added to the scores: hidden keys are pushed down by a number, so that a row without any sees all.

    The mask holds 0 where a key is hidden, [B, T], [B, S, T] or [B, 1, S, T]; or each row's length [B] (onnxruntime).
    """
    if mask is None:
        return added
    rank = call.rank(mask)
    if rank == 1:
        keys = call.recorder.call(torch.arange, call.size(k_BNTD, 2), device=call.recorder.device)
        hidden, rank = keys.unsqueeze(0) >= mask.unsqueeze(1), 2
    else:
        hidden = mask == 0
    for _ in range(4 - rank):
        hidden = hidden.unsqueeze(1)
    pushed = hidden.to(dtype) * call.attr("mask_filter_value", -10000.0)
    return pushed if added is None else added + pushed


def scale_of(call: Call) -> float | None:
    """0 or nothing means 1/sqrt(head size), torch's own default."""
    scale = call.attr("scale", 0.0)
    return float(scale) if scale else None


def with_bias(seen: Any, added: Any, hidden: float = -math.inf) -> Any:
    """A boolean mask and a sum as one; ``hidden`` is what stands where nothing is seen."""
    if added is None:
        return seen
    return added if seen is None else torch.where(seen, added, hidden)


@row("MultiHeadAttention", 1, domain=CONTRIB, biases=(3,))
def multi_head_attention(
    call: Call,
    q: Any,
    k: Any = None,
    v: Any = None,
    bias: Any = None,
    mask: Any = None,
    added: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    *rest: Any,
) -> Any:
    """Separate projections [B, S, H], or k and v as [B, N, T, D] of a cross attention (onnxruntime)."""
    refuse_inputs(call, **{f"input {i + 8}": r for i, r in enumerate(rest)})
    call.refuse_outputs({3: "qk"})
    heads = int(call.attr("num_heads"))
    if k is None or v is None:
        raise call.refuse("packed query, key and value")
    flat, width, dtype = call.rank(k) == 3, call.size(q, 2), call.dtype(q)
    if bias is not None:
        parts = torch.split(bias, [width, width, call.size(v, 2) if flat else width], 0)
        q = q + parts[0]
        k, v = (k + parts[1], v + parts[2]) if flat else (k, v)
    q_BNSD = split_heads(q, call, heads)
    k_BNTD, v_BNTD = (split_heads(x, call, heads) if flat else x for x in (k, v))
    if past_k is not None:
        k_BNTD, v_BNTD = torch.cat([past_k, k_BNTD], 2), torch.cat([past_v, v_BNTD], 2)
    added = _pushed_down(call, mask, k_BNTD, added, dtype)
    seen = causal_mask(call, q_BNSD, k_BNTD, length_of(call, past_k)) if call.attr("unidirectional", 0) else None
    result = merge_heads(attend(q_BNSD, k_BNTD, v_BNTD, with_bias(seen, added), scale_of(call)), call)
    return (result, k_BNTD, v_BNTD)[: len(call.node.outputs)]


def rotate(x_BNSD: Any, cos_BSR: Any, sin_BSR: Any, interleaved: bool, width: int) -> Any:
    """Turn pairs: neighbours (2i, 2i+1) when interleaved, halves (i, i + R) otherwise; ``width`` 0 turns everything."""
    cos, sin = cos_BSR.unsqueeze(1), sin_BSR.unsqueeze(1)
    turned, kept = (x_BNSD[..., :width], x_BNSD[..., width:]) if width else (x_BNSD, None)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        halves = torch.chunk(turned, 2, -1)
        a, b = halves[0], halves[1]
        out = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return out if kept is None else torch.cat([out, kept], -1)


@row("RotaryEmbedding", 1, domain=CONTRIB)
def contrib_rotary_embedding(call: Call, x: Any, position_ids: Any, cos: Any, sin: Any) -> Any:
    """x is [B, S, H] or [B, N, S, D]; positions are one offset, or [B, S] (onnxruntime)."""
    width = int(call.attr("rotary_embedding_dim", 0))
    flat = call.rank(x) == 3
    heads = int(call.attr("num_heads", 0))
    if flat and not heads:
        head_dim = width or multiply(call.recorder, call.size(cos, 1), 2)
        x_BNSD = x.reshape([call.size(x, 0), call.size(x, 1), -1, head_dim]).transpose(1, 2)
    else:
        x_BNSD = split_heads(x, call, heads) if flat else x
    if call.rank(position_ids) == 1:
        steps = call.recorder.call(torch.arange, call.size(x_BNSD, 2), device=call.recorder.device)
        position_ids = (position_ids + steps).unsqueeze(0)
    turned = rotate(x_BNSD, cos[position_ids], sin[position_ids], bool(call.attr("interleaved", 0)), width)
    return merge_heads(turned, call) if flat else turned


@row("RotaryEmbedding", 23)
def rotary_embedding(call: Call, x: Any, cos: Any, sin: Any, position_ids: Any = None) -> Any:
    """Caches are [max position, R] with position_ids, else [B, S, R] (onnx RotaryEmbedding-23)."""
    flat = call.rank(x) == 3
    x_BNSD = split_heads(x, call, int(call.attr("num_heads"))) if flat else x
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    width = int(call.attr("rotary_embedding_dim", 0))
    turned = rotate(x_BNSD, cos, sin, bool(call.attr("interleaved", 0)), width)
    return merge_heads(turned, call) if flat else turned


@row("Attention", 23, 24)
def attention(
    call: Call, q: Any, k: Any, v: Any, mask: Any = None, past_k: Any = None, past_v: Any = None, valid: Any = None
) -> Any:
    """The standard's attention: rank 3 with head counts as attributes, or rank 4 (onnx Attention-23)."""
    refuse_inputs(call, nonpad_kv_seqlen=valid)
    call.refuse_outputs({3: "qk_matmul_output"})
    flat = call.rank(q) == 3
    if flat:
        heads, kv_heads = int(call.attr("q_num_heads")), int(call.attr("kv_num_heads"))
        q, k, v = split_heads(q, call, heads), split_heads(k, call, kv_heads), split_heads(v, call, kv_heads)
    past = length_of(call, past_k)
    if past_k is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    seen, added = (mask, None) if mask is not None and call.dtype(mask) == torch.bool else (None, mask)
    if call.attr("is_causal", 0):
        causal = causal_mask(call, q, k, past)
        seen = causal if seen is None else seen & causal
    scale, cap = call.attr("scale"), float(call.attr("softcap", 0.0))
    scale = None if scale is None else float(scale)
    if cap:
        counts = call.size(q, 1), call.size(k, 1)
        k_all, v_all = (repeated(call, x, *counts) for x in (k, v))
        attended = attend_capped(call, q, k_all, v_all, seen, added, cap, scale)
    else:
        attended = attend(q, k, v, with_bias(seen, added), scale, enable_gqa=True)
    return (merge_heads(attended, call) if flat else attended, k, v)[: max(len(call.node.outputs), 1)]
