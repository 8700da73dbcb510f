"""ONNX Runtime's grouped attention, with a cache that grows or one of the size of its sliding window.

Names of shapes as in attention.py: B batch, S queries, T keys, N heads, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch

from graphclone.pytorch.operators.attention import (
    attend,
    attend_capped,
    merge_heads,
    refuse_inputs,
    repeated,
    rotate,
    scale_of,
    split_heads,
    with_bias,
)
from graphclone.pytorch.operators.rows import CONTRIB, Call, row
from graphclone.pytorch.values import UNKNOWN

HIDDEN = -10000.0  # a padded query may see nothing: its sum with a bias has to stay a number


@row("GroupQueryAttention", 1, domain=CONTRIB)
def group_query_attention(
    call: Call,
    q: Any,
    k: Any,
    v: Any,
    past_k: Any,
    past_v: Any,
    seqlens: Any,
    total: Any,
    cos: Any = None,
    sin: Any = None,
    position_ids: Any = None,
    added: Any = None,
    *rest: Any,
) -> Any:
    """Causal, grouped; seqlens_k holds the last valid key of each row, so right padding is hidden (onnxruntime)."""
    refuse_inputs(call, **{f"input {i + 11}": r for i, r in enumerate(rest)})
    heads, kv_heads = int(call.attr("num_heads")), int(call.attr("kv_num_heads"))
    if call.attr("smooth_softmax", 0) > 0:  # -1 is off too
        raise call.refuse("smooth_softmax (not needed for training: export without it)")
    if k is None:
        head_dim = call.recorder.call(_parts_of, call.size(q, 2), heads + 2 * kv_heads)
        widths = [call.recorder.call(_times, head_dim, n) for n in (heads, kv_heads, kv_heads)]
        packed = torch.split(q, widths, -1)
        q, k, v = packed[0], packed[1], packed[2]
    q_BNSD, k_BKSD, v_BKSD = split_heads(q, call, heads), split_heads(k, call, kv_heads), split_heads(v, call, kv_heads)
    rolling = bool(call.attr("sliding_window_cache", 0))
    cache = _rolling(call, q_BNSD, past_k, seqlens, added) if rolling else None
    tokens_BS = cache[0] if cache is not None else call.recorder.call(places, seqlens, call.size(q_BNSD, 2))
    if call.attr("do_rotary", 0):
        if position_ids is None:
            position_ids = tokens_BS
        turned = bool(call.attr("rotary_interleaved", 0))
        width = _rotary_width(call, cos, q_BNSD)
        q_BNSD, k_BKSD = (rotate(x, cos[position_ids], sin[position_ids], turned, width) for x in (q_BNSD, k_BKSD))
    if cache is not None:
        k_BKSD, v_BKSD = torch.cat([past_k, k_BKSD], 2), torch.cat([past_v, v_BKSD], 2)
    elif past_k is not None:
        k_BKSD, v_BKSD = (_grown(call, x, new, tokens_BS, total) for x, new in ((past_k, k_BKSD), (past_v, v_BKSD)))
    seen = cache[1] if cache is not None else _seen(call, tokens_BS, k_BKSD, seqlens)
    k_all, v_all = (repeated(call, x, heads, kv_heads) for x in (k_BKSD, v_BKSD))
    cap = float(call.attr("softcap", 0.0))
    if cap:
        attended = attend_capped(call, q_BNSD, k_all, v_all, seen, added, cap, scale_of(call))
    else:
        attended = attend(q_BNSD, k_all, v_all, with_bias(seen, added, HIDDEN), scale_of(call))
    if cache is not None:
        k_BKSD, v_BKSD = (call.recorder.call(stay, x, cache[2]) for x in (k_BKSD, v_BKSD))
    return (merge_heads(attended, call), k_BKSD, v_BKSD)[: len(call.node.outputs)]


def places(last: torch.Tensor, length: int) -> torch.Tensor:
    """The positions [B, S] of ``length`` tokens, the last of each row at ``last`` [B]; padded prompts start at 0."""
    before = (last.reshape(-1, 1).to(torch.int64) + 1 - length).clamp(min=0)
    return before + torch.arange(length, device=last.device)


def _grown(call: Call, cache_BKPD: Any, new_BKSD: Any, tokens_BS: Any, total: Any) -> Any:
    grown = call.recorder.call(grow, cache_BKPD, new_BKSD, tokens_BS, total)
    if grown.example is UNKNOWN:  # an example has no total
        grown.node.meta["example"] = call.example(cache_BKPD)
    return grown


def grow(cache: torch.Tensor, new: torch.Tensor, tokens: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """A cache [B, K, P, D] with ``new`` rows [B, K, S, D] at the positions ``tokens`` [B, S], right behind those that
    each row holds; as long as it was, or as the longest row is now. What lies behind them is 0.
    """
    held, length = cache.size(2), new.size(2)
    if held == 0:
        return new
    rows = torch.arange(max(held, int(total)), device=cache.device)
    first = tokens[:, :1]
    source = torch.where(rows < first, rows, rows - first + held).clamp(max=held + length - 1)
    taken = torch.cat((cache, new), 2).gather(2, source[:, None, :, None].expand(-1, cache.size(1), -1, cache.size(3)))
    return torch.where((rows < first + length)[:, None, :, None], taken, 0.0)


def _seen(call: Call, tokens_BS: Any, k_BKTD: Any, seqlens: Any) -> Any:
    """[B, 1, S, T]: what stands before a token or is itself, in its window, and is not padding."""
    window, reader = int(call.attr("local_window_size", -1)), tokens_BS.unsqueeze(-1)
    keys = call.recorder.call(torch.arange, call.size(k_BKTD, 2), device=call.recorder.device).reshape([1, 1, -1])
    seen = (keys <= reader) & (keys <= seqlens.reshape([-1, 1, 1]))
    return (seen if window < 0 else seen & (keys > reader - window)).unsqueeze(1)


def _rolling(call: Call, q_BNSD: Any, past_k: Any, seqlens: Any, added: Any) -> Any:
    """Positions, mask and what stays of a cache of the window's size. Refuses what reads positions that it drops."""
    window = int(call.attr("local_window_size", -1))
    if past_k is None or window < 1:
        raise call.refuse("sliding_window_cache without a cache or without a local_window_size")
    refuse_inputs(call, attention_bias=added)
    return call.recorder.call(rolling_cache, seqlens, call.size(q_BNSD, 2), call.size(past_k, 2), window)


def rolling_cache(
    last: torch.Tensor, length: int, capacity: int, window: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A cache of ``capacity`` rows that keeps the newest positions from row 0 on, and ``length`` tokens behind it.

    last [B]: position of each row's last token. When the cache is full, as many rows go at once as it has more than
    the window. Returns the positions of the tokens [B, S], which rows of the cache and tokens behind it each token
    sees [B, 1, S, capacity + S], and which of them are the rows of the next cache [B, capacity].
    """
    seen = last.reshape(-1, 1).to(torch.int64) + 1  # tokens, these among them
    before = seen - seen.clamp(max=length)
    step = capacity - window + 1

    def gone(tokens: torch.Tensor) -> torch.Tensor:
        return ((tokens - capacity).clamp(min=0) + step - 1) // step * step

    rows = torch.arange(capacity, device=last.device).unsqueeze(0)
    tokens = before + torch.arange(length, device=last.device)
    first = gone(before)
    where = torch.cat((first + rows, tokens), 1).unsqueeze(1)
    valid = torch.cat((first + rows < before, tokens < seen), 1).unsqueeze(1)
    reader = torch.minimum(tokens, seen - 1).unsqueeze(2)  # padding sees what the last token sees
    mask = valid & (where <= reader) & (where > reader - window)
    wanted = gone(seen) + rows
    source = torch.where(wanted < before, wanted - first, wanted - before + capacity)
    return tokens, mask.unsqueeze(1), torch.where(wanted < seen, source, rows)


def stay(cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some rows [B, R] of a cache [B, K, T, D]."""
    return cache.gather(2, rows[:, None, :, None].expand(-1, cache.size(1), -1, cache.size(3)))


def _rotary_width(call: Call, cos: Any, x_BNSD: Any) -> int:
    """How much of a head is turned: twice the tables' width; 0 where that is all of it."""
    width, head = call.size(cos, 1), call.size(x_BNSD, 3)
    partial = isinstance(width, int) and isinstance(head, int) and 2 * width < head
    return 2 * width if partial else 0


def _parts_of(whole: int, parts: int) -> int:
    return whole // parts


def _times(a: int, b: int) -> int:
    return a * b
