"""Activations written over several nodes become one call.

A cone of elementwise operators over one value and numbers alone is a function of one variable, whatever its form: it
is computed in float64 over a range that reaches both tails, and replaced where it is a known function to the last
digits that float32 constants leave.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.recognition.rewriting import Rewriter, calls, dtype, each, evaluate

KNOWN: tuple[tuple[Any, dict[str, Any]], ...] = (
    (F.gelu, {}),
    (F.gelu, {"approximate": "tanh"}),
    (F.silu, {}),
    (F.mish, {}),
)
CURVED = (torch.erf, torch.tanh, torch.sigmoid, torch.exp)
ELEMENTWISE = (
    *(torch.add, torch.sub, torch.rsub, torch.mul, torch.pow, torch.neg, torch.square, torch.sqrt, F.softplus),
    *(operator.truediv, torch.div, operator.add, operator.mul, operator.sub, "to", *CURVED),
)
LARGEST = 14  # nodes in the widest form seen, with room
RANGE, POINTS = 12.0, 4001
EXACT, IN_FULL = 2e-6, 1e-12  # constants such as sqrt(2/pi) arrive rounded to float32, but not in float64 graphs


def recognise_activations(rewriter: Rewriter) -> None:
    """Replace every cone that is one of the KNOWN functions."""
    for end in each(rewriter.graph, torch.mul, operator.truediv):
        for source in _sources(end):
            found = _function(end, source) if dtype(source) == dtype(end) else None
            if found is not None:
                rewriter.replace(end, rewriter.insert(end, found[0], source, **found[1]))
                break
    rewriter.finish()


def _sources(end: fx.Node) -> list[fx.Node]:
    """The values that a curved cone under ``end`` is a function of, each alone; the nearest first."""
    cone: list[fx.Node] = [end]
    for node in cone:
        if len(cone) > LARGEST:
            break
        if calls(node, *ELEMENTWISE):
            cone += [n for n in node.all_input_nodes if n not in cone]
    if not any(calls(n, *CURVED) for n in cone):
        return []
    return [n for n in cone[1:] if _closes(end, n)]


def _closes(end: fx.Node, source: fx.Node) -> bool:
    """Every path from the end leads to the source, over elementwise operators alone, past a curved one."""
    waiting = [end]
    seen: set[fx.Node] = set()
    curved = False
    while waiting:
        node = waiting.pop()
        if node is source or node in seen:
            continue
        if not calls(node, *ELEMENTWISE) or len(seen) > LARGEST:
            return False
        curved |= calls(node, *CURVED)
        seen.add(node)
        waiting += node.all_input_nodes
    return curved


def _function(end: fx.Node, source: fx.Node) -> tuple[Any, dict[str, Any]] | None:
    x = torch.linspace(-RANGE, RANGE, POINTS, dtype=torch.float64)
    found = evaluate(end, {source: x})
    if not isinstance(found, torch.Tensor) or found.shape != x.shape:
        return None
    for function, options in KNOWN:
        near = IN_FULL if dtype(end) == torch.float64 else EXACT
        if bool(((found - function(x, **options)).abs() <= near * x.abs().clamp(min=0.1)).all()):
            return function, options
    return None
