"""Shortens chains of reshapes and permutes to one call, or to none where they cancel."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from graphclone.pytorch.recognition.rewriting import Rewriter, calls, each, extents, pair, rank, size_of

ON_TENSORS: dict[Any, Any] = {operator.add: torch.add, operator.sub: torch.sub, operator.mul: torch.mul}
ROUNDS = 3  # one simplification makes room for another


def simplify_movement(rewriter: Rewriter) -> None:
    """Join chains of reshapes and of permutes, and drop those that change nothing."""
    for node in each(rewriter.graph, *ON_TENSORS):
        if isinstance(node.meta.get("example"), torch.Tensor) and isinstance(node.args[0], fx.Node):
            node.target = ON_TENSORS[node.target]
    for node in each(rewriter.graph, "reshape", "permute", "expand"):
        if not isinstance(node.args[1], (list, tuple)):
            node.args = (node.args[0], list(node.args[1:]))
    for _ in range(ROUNDS):
        for node in each(rewriter.graph, "permute"):
            _permute(rewriter, node)
        for node in each(rewriter.graph, "reshape"):
            _reshape(rewriter, node)
        for node in each(rewriter.graph, "expand"):
            if all(type(n) is int and n == -1 for n in node.args[1]) and rank(node) == rank(node.args[0]):  # type: ignore[union-attr]
                rewriter.replace(node, node.args[0])  # type: ignore[arg-type]
        for node in each(rewriter.graph, torch.logical_and):
            held = pair(node, lambda a: _always(rewriter, a))
            if held is not None:
                rewriter.replace(node, held[1])
        rewriter.finish()


def _always(rewriter: Rewriter, value: Any) -> bool:
    """One truth, beside which a condition is itself."""
    table = rewriter.tables.get(str(value.target)) if isinstance(value, fx.Node) and value.op == "get_attr" else None
    return table is not None and table.dtype == torch.bool and table.dim() == 0 and bool(table)


def _permute(rewriter: Rewriter, node: fx.Node) -> None:
    source: Any = node.args[0]
    order: list[int] = list(node.args[1])  # type: ignore[arg-type]
    if order == list(range(len(order))):
        rewriter.replace(node, source)
    elif calls(source, "permute"):
        inner = source.args[1]
        rewriter.replace(node, rewriter.insert(node, "permute", source.args[0], [inner[i] for i in order]))


def _reshape(rewriter: Rewriter, node: fx.Node) -> None:
    source: Any = node.args[0]
    target: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    if changes_nothing(source, target):
        rewriter.replace(node, source)
    elif calls(source, "reshape") and not all(calls(user, "permute") for user in node.users):
        rewriter.replace(node, rewriter.insert(node, "reshape", source.args[0], target))
    elif (inner := _moved_inside(source, target)) is not None:
        rewriter.replace(node, rewriter.insert(node, "permute", *inner))


def changes_nothing(source: fx.Node, target: list[Any]) -> bool:
    """Every size is asked for as it is; one may be left to torch."""
    had = extents(source)
    if had is None or len(had) != len(target):
        return False
    wanted = [size_of(size) for size in target]
    free = [type(w) is int and w == -1 for w in wanted]
    return sum(free) <= 1 and all(f or h == w for f, h, w in zip(free, had, wanted, strict=True))


def _moved_inside(source: fx.Node, target: list[Any]) -> tuple[fx.Node, list[int]] | None:
    """x[B, N, S, D] -> [-1, S, D] -> permuted inside -> [B, N, D, S] is a permutation of x."""
    if not calls(source, "permute") or not calls(source.args[0], "reshape"):
        return None
    order: list[int] = list(source.args[1])  # type: ignore[arg-type]
    inner: Any = source.args[0]
    x, had = inner.args[0], extents(inner.args[0])
    if had is None or order[0] != 0 or inner.args[1][0] != -1:
        return None
    lead = len(had) - len(order) + 1
    kept = [size_of(s) for s in inner.args[1][1:]]
    if lead < 1 or kept != had[lead:] or len(target) != len(had):
        return None
    full = [*range(lead), *(lead + i - 1 for i in order[1:])]
    wanted = [size_of(s) for s in target]
    same = [w == had[a] or (type(w) is int and w == -1) for w, a in zip(wanted, full, strict=True)]
    return (x, full) if all(same) and sum(type(w) is int and w == -1 for w in wanted) <= 1 else None
