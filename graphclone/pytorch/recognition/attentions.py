"""Softmax between two products becomes scaled_dot_product_attention.

Scores may be scaled before or after their product, masked by addition or by choice, guarded against rows that see
nothing, and keys and values may be repeated over the query heads of a group. A mask stays the graph's own.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.recognition.rewriting import Rewriter, behind_casts, calls, dtype, each, extents, pair, rank

HIDDEN = -1e9  # beside a score added to it, or instead of it: the same after a softmax in float32
SAME_SCALE = 1e-6  # of a root that was rounded to float32; a float64 graph has to say it in full

EXACT_SCALE = 1e-12


@dataclass
class _Scores:
    """What stands between the product of queries and keys and the softmax, from the outside in."""

    scale: float = 1.0
    added: list[fx.Node] = field(default_factory=list)
    chosen: list[tuple[fx.Node, bool, float]] = field(default_factory=list)  # condition, seen where true, else
    product: fx.Node | None = None


def recognise_attention(rewriter: Rewriter) -> None:
    """Replace every product with softmaxed scores."""
    for context in each(rewriter.graph, torch.matmul):
        softmax, guarded = _softmax(rewriter, context.args[0])
        if softmax is None or (rank(context) or 0) < 3:
            continue
        scores = _scores(rewriter, softmax.args[0])
        if scores is not None:
            _replace(rewriter, context, scores, guarded)
    rewriter.finish()


def _softmax(rewriter: Rewriter, value: Any) -> tuple[fx.Node | None, bool]:
    """The softmax over the last axis, and whether rows of NaN were made zero after it."""
    value, guarded = behind_casts(value), False
    if calls(value, torch.where) and calls(value.args[0], torch.isnan) and rewriter.number(value.args[1]) == 0:
        if value.args[0].args[0] is not value.args[2]:
            return None, False
        value, guarded = behind_casts(value.args[2]), True
    if not calls(value, torch.softmax):
        return None, False
    axis = value.kwargs.get("dim", value.args[1] if len(value.args) > 1 else None)
    return (value, guarded) if axis in (-1, (rank(value) or 0) - 1) else (None, False)


def _scores(rewriter: Rewriter, value: Any) -> _Scores | None:
    found = _Scores()
    while not calls(value, torch.matmul):
        value = _inward(rewriter, value, found)
        if value is None:
            return None
    found.product = value
    return found


def _inward(rewriter: Rewriter, value: Any, found: _Scores) -> Any:
    """One step towards the product, noted; None where the step is not one of attention's."""
    if calls(value, "to"):
        return value.args[0]
    if calls(value, torch.mul, operator.truediv):
        return _scaled(rewriter, value, found)
    if found.scale != 1.0:  # a mask inside a scaled sum would be scaled too
        return None
    if calls(value, torch.add):
        sides = pair(value, lambda a: _leads_to_product(rewriter, a))
        if sides is None or not isinstance(sides[1], fx.Node) or dtype(sides[1]) == torch.bool:
            return None
        found.added.append(sides[1])
        return sides[0]
    if calls(value, torch.where):
        for seen in (True, False):
            inside, outside = value.args[1:] if seen else value.args[:0:-1]
            hidden = rewriter.number(outside)
            if hidden is not None and hidden <= HIDDEN and _leads_to_product(rewriter, inside):
                found.chosen.append((value.args[0], seen, hidden))
                return inside
    return None


def _scaled(rewriter: Rewriter, value: fx.Node, found: _Scores) -> Any:
    number = rewriter.number(value.args[1])
    inside: Any = value.args[0]
    if number is None and calls(value, torch.mul):
        number, inside = rewriter.number(value.args[0]), value.args[1]
    if number is None or number == 0:
        return None
    found.scale *= number if calls(value, torch.mul) else 1 / number
    return inside


def _leads_to_product(rewriter: Rewriter, value: Any) -> bool:
    for _ in range(8):
        if calls(value, torch.matmul):
            return True
        inner = _inward_of(rewriter, value)
        if inner is None:
            return False
        value = inner
    return False


def _inward_of(rewriter: Rewriter, value: Any) -> Any:
    if calls(value, "to"):
        return value.args[0]
    if calls(value, torch.mul, operator.truediv):
        return next((a for a in value.args if rewriter.number(a) is None), None)
    if calls(value, torch.add):
        return next((a for a in value.args if _leads_to_product(rewriter, a)), None)
    if calls(value, torch.where):
        return next((a for a in value.args[1:] if rewriter.number(a) is None), None)
    return None


def _replace(rewriter: Rewriter, context: fx.Node, scores: _Scores, guarded: bool) -> None:
    assert scores.product is not None
    q, k_turned = (_unscaled(rewriter, a, scores) for a in scores.product.args)
    v: Any = context.args[1]
    if not all(isinstance(n, fx.Node) and rank(n) == rank(context) for n in (q, k_turned, v)):
        return
    k = _turned(rewriter, context, k_turned)
    if not all(_fits(m, scores.product) for m in (*scores.added, *(condition for condition, _, _ in scores.chosen))):
        return
    options: dict[str, Any] = {}
    mask = _mask(rewriter, context, scores, guarded)
    if mask is not None:
        if dtype(mask) not in (torch.bool, dtype(q)):
            return
        options["attn_mask"] = mask
    (k_few, groups), (v_few, same) = _ungrouped(k), _ungrouped(v)
    if groups > 1 and groups == same:
        k, v = k_few, v_few
        options["enable_gqa"] = True
    width = (extents(q) or [None])[-1]
    near = SAME_SCALE if dtype(context) != torch.float64 else EXACT_SCALE
    if not isinstance(width, int) or not math.isclose(scores.scale, 1 / math.sqrt(width), rel_tol=near):
        options["scale"] = scores.scale
    if len({dtype(n) for n in (q, k, v, context)}) == 1:
        rewriter.replace(context, rewriter.insert(context, F.scaled_dot_product_attention, q, k, v, **options))
        _measure_elsewhere(rewriter, scores.product, q, k)


def _fits(mask: fx.Node, product: fx.Node) -> bool:
    """Whether a mask may lie on the scores: where it is longer than what is surely one, it makes more scores of them.

    Sizes that cannot be followed are read from the example, where 1 is a size that the graph fixes.
    """
    masked, scored = extents(mask), extents(product)
    if masked is None or scored is None or len(masked) > len(scored):
        return False
    sizes = zip(mask.meta["example"].shape[::-1], masked[::-1], scored[::-1], strict=False)
    return not any(score == 1 and size != 1 and shown != 1 for shown, size, score in sizes)


def _measure_elsewhere(rewriter: Rewriter, product: fx.Node, q: fx.Node, k: fx.Node) -> None:
    """Sizes that were asked of the scores are queries' and keys', so that no scores are computed to measure them."""
    waiting, last = [product], (rank(product) or 0) - 1
    while waiting:
        node = waiting.pop()
        for user in list(node.users):
            if calls(user, "size") and isinstance(user.args[1], int):
                axis = user.args[1] % (last + 1)
                source, where = (k, last - 1) if axis == last else (q, axis)
                rewriter.replace(user, rewriter.insert(user, "size", source, where))
            elif calls(user, torch.add, torch.mul, operator.truediv, torch.where, torch.softmax, "to"):
                waiting += [user] if rank(user) == last + 1 else []


def _unscaled(rewriter: Rewriter, value: Any, scores: _Scores) -> Any:
    """Queries or keys before they are multiplied by a number, which joins the scale."""
    while calls(value, torch.mul, operator.truediv):
        inside = _scaled(rewriter, value, scores)
        if inside is None:
            break
        value = inside
    return value


def _turned(rewriter: Rewriter, at: fx.Node, k_DT: fx.Node) -> fx.Node:
    """Keys as [.., T, D]."""
    if calls(k_DT, "permute"):
        order: list[int] = list(k_DT.args[1])  # type: ignore[arg-type]
        turned = [*order[:-2], order[-1], order[-2]]
        source: Any = k_DT.args[0]
        return source if turned == sorted(turned) else rewriter.insert(at, "permute", source, turned)
    if calls(k_DT, "transpose") and {int(a) % (rank(k_DT) or 1) for a in k_DT.args[1:]} == _last_two(k_DT):  # type: ignore[arg-type]
        return k_DT.args[0]  # type: ignore[return-value]
    return rewriter.insert(at, "transpose", k_DT, -2, -1)


def _last_two(value: fx.Node) -> set[int]:
    axes = rank(value) or 0
    return {axes - 2, axes - 1}


def _mask(rewriter: Rewriter, at: fx.Node, scores: _Scores, guarded: bool) -> fx.Node | None:
    """All masks as one: boolean where it says the same as the numbers, else what is added to the scores."""
    added: fx.Node | None = None
    for one in scores.added:
        added = one if added is None else rewriter.insert(at, torch.add, added, one)
    for condition, seen, hidden in scores.chosen:
        if added is None:
            added = rewriter.insert(at, "to", condition, _type(scores))
            sides = (0.0, hidden) if seen else (hidden, 0.0)
            zero = rewriter.insert(at, torch.zeros_like, added)
            added = rewriter.insert(
                at, torch.where, condition, *((zero, hidden) if sides[0] == 0.0 else (hidden, zero))
            )
        else:
            added = rewriter.insert(at, torch.where, condition, *((added, hidden) if seen else (hidden, added)))
    return _as_boolean(rewriter, added) if guarded and added is not None else added


def _type(scores: _Scores) -> torch.dtype:
    found = None if scores.product is None else dtype(scores.product)
    return found or torch.float32


def _as_boolean(rewriter: Rewriter, mask: fx.Node) -> fx.Node:
    """0 where seen and -infinity elsewhere, with rows of nothing made zero, is what a boolean mask means."""
    if calls(mask, torch.where) and rewriter.number(mask.args[1]) == 0 and rewriter.number(mask.args[2]) == -math.inf:
        condition = mask.args[0]
        if isinstance(condition, fx.Node) and dtype(condition) == torch.bool:
            return condition
    return mask


def _ungrouped(value: fx.Node) -> tuple[fx.Node, int]:
    """[B, K, T, D] and how often each head is repeated; the value itself and 1 where none is."""
    if calls(value, "repeat_interleave") and value.kwargs.get("dim") == 1:
        return value.args[0], int(value.args[1])  # type: ignore[arg-type, return-value]
    if not calls(value, "reshape") or rank(value) != 4 or not calls(value.args[0], "expand"):
        return value, 1
    expanded: Any = value.args[0]
    few: Any = expanded.args[0].args[0] if calls(expanded.args[0], "unsqueeze") else None
    spread: Any = expanded.args[1]
    if few is None or rank(few) != 4 or expanded.args[0].args[1] not in (2, -3) or len(spread) != 5:
        return value, 1
    had, wanted = extents(few), extents(value)
    if had is None or wanted is None or not isinstance(spread[2], int) or not isinstance(had[1], int):
        return value, 1
    heads: Any = value.args[1]
    heads = heads[1] if heads[1] != -1 else wanted[1]
    return (few, spread[2]) if heads == had[1] * spread[2] and wanted[3] in (had[3], None) else (value, 1)
