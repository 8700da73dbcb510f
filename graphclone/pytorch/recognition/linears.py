"""Products with a weight become F.linear on the value as it is, bias included.

The weight of F.linear is [out, in]; where the graph holds [in, out] it is read through ``.t()``, which
source/layout.py turns into the parameter's own layout wherever every reader agrees.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.extents import extent
from graphclone.pytorch.recognition.rewriting import Rewriter, calls, each, pair, rank, size_of


def recognise_linears(rewriter: Rewriter) -> None:
    """Products first, then what stands around them."""
    for node in each(rewriter.graph, torch.matmul, torch.mm, torch.addmm):
        _product(rewriter, node)
    rewriter.finish()
    for _ in range(2):  # a bias may be added inside the reshapes, or outside
        for node in each(rewriter.graph, "reshape"):
            _around(rewriter, node)
        rewriter.finish()
        for node in each(rewriter.graph, torch.add):
            _bias(rewriter, node)
        rewriter.finish()


def _product(rewriter: Rewriter, node: fx.Node) -> None:
    bias, operands = (node.args[0], node.args[1:]) if node.target is torch.addmm else (None, node.args)
    if node.kwargs or len(operands) != 2:
        return
    x, w = operands
    if bias is not None and not (rewriter.is_weight(bias) and rank(bias) == 1 and not _single(bias)):
        return
    weight = _outward(rewriter, node, w)
    if weight is None or not isinstance(x, fx.Node) or rewriter.is_weight(x):
        return
    extra = () if bias is None else (bias,)
    rewriter.replace(node, rewriter.insert(node, F.linear, x, weight, *extra))


def _single(bias: Any) -> bool:
    return bool(bias.meta["example"].numel() == 1)


def _outward(rewriter: Rewriter, node: fx.Node, w: Any) -> fx.Node | None:
    """The weight as F.linear reads it, [out, in]."""
    if rewriter.is_weight(w) and rank(w) == 2:
        return rewriter.insert(node, "t", w)
    turned = calls(w, "t") or (calls(w, "permute") and list(w.args[1]) == [1, 0])
    turned = turned or (calls(w, "transpose") and rank(w) == 2)
    if turned and rewriter.is_weight(w.args[0]) and rank(w) == 2:
        held: fx.Node = w.args[0]
        return held
    return None


def _around(rewriter: Rewriter, node: fx.Node) -> None:
    """[B, S, H] -> [-1, H] -> linear -> [B, S, O] is a linear on three axes."""
    product: Any = node.args[0]
    if not calls(product, F.linear) or not calls(product.args[0], "reshape"):
        return
    flat: Any = product.args[0]
    inside, outside = extent(product.args[1], 1), extent(product.args[1], 0)
    target: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    if rank(product) != 2 or list(flat.args[1]) not in ([-1, inside], [size_of(flat.args[1][0]), inside]):
        return
    if size_of(target[-1]) not in (outside, -1) or target.count(-1) > (target[-1] == -1):
        return
    x = rewriter.insert(node, "reshape", flat.args[0], [*target[:-1], inside])
    rewriter.replace(node, rewriter.insert(node, F.linear, x, *product.args[1:]))


def _bias(rewriter: Rewriter, node: fx.Node) -> None:
    """linear + vector, or (linear + anything) + vector, where nobody else reads the product."""
    held = pair(node, rewriter.is_weight)
    if held is None:
        return
    bias, summed = held
    inside = pair(summed, _bare) if calls(summed, torch.add) and len(summed.users) == 1 else (summed, None)
    if inside is None or not _bare(inside[0]):
        return
    product, other = inside
    shape = bias.meta["example"].shape
    if not shape or shape.numel() != shape[-1] or shape[-1] != extent(product.args[1], 0):
        return
    if len(shape) > (rank(product) or 0):
        return
    flat = bias if len(shape) == 1 else rewriter.insert(node, "reshape", bias, [-1])
    whole = rewriter.insert(node, F.linear, *product.args, flat)
    rewriter.replace(node, whole if other is None else rewriter.insert(node, torch.add, whole, other))


def _bare(value: Any) -> bool:
    return calls(value, F.linear) and len(value.args) == 2 and len(value.users) == 1
