"""A clone of fewer tokens computes what it would with all: equal outputs at the tokens kept, on ids counted anew.

The clone with all tokens is the clone's own graph with the parent's whole embedding and head in it (cut along every
other axis as the clone's are). It is then held against the parent as any clone is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.verification.claims import Claims, Indices, Slice
from graphclone.verification.memory import too_large
from graphclone.verification.oracle import tolerance
from graphclone.verification.report import Check
from graphclone.verification.sessions import open_session
from graphclone.verification.weights import recompute
from graphclone.verification.zeroed import difference

Array = np.ndarray[Any, Any]

NAME = "vocabulary"
SIZES = ((2, 7), (4, 13))  # batch, length


def widened(parent: Model, clone: Model, claims: Claims) -> tuple[Model, Claims]:
    """The clone with all of the parent's tokens, and what it would claim."""
    assert claims.tokens is not None
    before, kept = parent.constants(), claims.tokens
    whole = {name: _whole(claim, kept) for name, claim in claims.slices.items()}
    copy = clone.copy()
    for name, tensor in copy.graph.tensors().items():
        claim = whole.get(name)
        if isinstance(tensor, gs.Variable):
            tensor.shape = _undeclared(tensor, copy.graph, kept.size)
        elif claim is not None and claim.parent in before and claim is not claims.slices[name]:
            tensor.values = recompute(before[claim.parent], claim)
    _restore_sizes(parent.graph, copy.graph, claims, before)
    plan = replace(claims.plan, keep={n: k for n, k in claims.plan.keep.items() if not n.startswith(NAME)})
    return copy, replace(claims, slices=whole, plan=plan)


def _whole(claim: Slice, kept: Indices) -> Slice:
    """The claim without what it says of tokens."""
    take = tuple(None if t is not None and np.array_equal(t, kept) else t for t in claim.take)
    same = all(a is b for a, b in zip(take, claim.take, strict=True))
    return claim if same and not claim.tokens else replace(claim, take=take, tokens=False)


def _undeclared(tensor: gs.Variable, graph: gs.Graph, size: int) -> list[Any] | None:
    """Inputs stay as declared, outputs lose the size that no longer holds, what lies between says nothing."""
    if tensor in graph.inputs or tensor.shape is None:
        return tensor.shape if tensor.shape is None else list(tensor.shape)
    if tensor not in graph.outputs:
        return None
    return [f"{tensor.name}_{axis}" if dim == size else dim for axis, dim in enumerate(tensor.shape)]


def _restore_sizes(parent: gs.Graph, copy: gs.Graph, claims: Claims, before: Mapping[str, Array]) -> None:
    """Constants that encode how many tokens there are (ends of slices, shapes) say the parent's number again."""
    assert claims.tokens is not None
    nodes = {t.name: node for node in parent.nodes for t in node.outputs}
    for node in copy.nodes:
        old = nodes.get(node.outputs[0].name)
        for place, tensor in enumerate(node.inputs):
            claim = claims.slices.get(tensor.name) if isinstance(tensor, gs.Constant) else None
            if claim is None or not claim.shape_constant or old is None or place >= len(old.inputs):
                continue
            source, held = before.get(old.inputs[place].name), np.asarray(tensor.values)
            if source is not None and source.shape == held.shape and (held == claims.tokens.size).any():
                restored = np.where(held == claims.tokens.size, source, held).astype(held.dtype)
                node.inputs[place] = gs.Constant(f"{tensor.name}_all", restored)


def examine(whole: Model, clone: Model, claims: Claims) -> Check:
    """Run both, ``whole`` on the parent's ids of the clone's tokens; SIZES are batches and lengths."""
    assert claims.tokens is not None
    if claims.trained:
        return Check.skipped(NAME, "the clone was trained after the cut")
    if reason := too_large(whole, clone):
        return Check.skipped(NAME, reason)
    try:
        worst, where = max(_compared(whole, clone, claims.tokens))
    except UnsupportedGraph as problem:
        return Check.of(NAME, [str(problem)], "")
    said = f"{claims.tokens.size} tokens kept: largest relative difference from the clone with all, in output {where}"
    return Check.measured(NAME, worst, tolerance(clone), said)


def _compared(whole: Model, clone: Model, kept: Indices) -> Iterator[tuple[float, str]]:
    roles = {name: given.role.name for name, given in tiny.inputs(clone).items()}
    many, few = open_session(whole), open_session(clone)
    for batch, length in SIZES:
        fed = tiny.tiny_feeds(clone, batch=batch, length=length)
        ids = {n: kept[a].astype(a.dtype) if roles[n] == "tokens" else a for n, a in fed.items()}
        actual = few.run(fed)
        expected = {n: _at(a, actual[n].shape, kept) for n, a in many.run(ids).items()}
        yield difference(expected, actual)


def _at(array: Array, shape: tuple[int, ...], kept: Indices) -> Array:
    """An output at the tokens kept, along the axis that is longer than the clone's."""
    for axis, (size, wanted) in enumerate(zip(array.shape, shape, strict=True)):
        if size != wanted == kept.size and size > int(kept.max()):
            return np.take(array, kept, axis=axis)
    return array
