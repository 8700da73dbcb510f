"""The zeroed parent: a neuron, head or branch whose weights are all zero contributes exactly nothing.

So a clone computes what its parent computes with the dropped positions of its weights set to zero (``zeroed``) and, for
channels of the residual stream, with its norms over the kept ones alone (``norms``). It computes so in any order: a
permutation of neurons is a plan as well. Where no such parent can be told, the check is not applicable, and says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification.claims import Claims
from graphclone.verification.memory import too_large
from graphclone.verification.norms import leave_out
from graphclone.verification.report import Check
from graphclone.verification.sessions import open_session
from graphclone.verification.slices import shows
from graphclone.verification.zeroed import Ambiguous, difference, zeroed

Array = np.ndarray[Any, Any]

DIVISOR = "qk_dim"  # end of the names of groups whose size attention divides by
NUMBERED = re.compile(r"\.\d+$")  # several groups of a kind in a block: blocks.0.qk_dim.2
DIGIT = re.compile(r"\d")
HANDS_ON = ("Add", "Identity", "Cast", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
NAME = "equals the zeroed parent"

# largest |difference| over largest |parent output|, by the coarsest float type among the weights: sums are taken in
# another order, so this grows with the type's rounding (2^-24, 2^-11, 2^-8) and not with the cut
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
ILL = 1e-2  # beyond this a difference is no rounding, whatever the model
ORDERS = 8  # a difference of two orders of sums may be so many times another such difference


def examine(parent: Model, clone: Model, claims: Claims, sizes: tuple[int, int] = (2, 7)) -> Check:
    """Compare the clone's outputs with the zeroed parent's on one batch of ``sizes`` (batch, length)."""
    reason = _not_applicable(parent, clone, claims) or too_large(parent, clone)
    if reason:
        return Check.skipped(NAME, reason)
    try:
        reference = zeroed(parent, clone, claims)
        leave_out(reference, parent, clone, claims)
    except (Ambiguous, UnsupportedGraph) as problem:
        return Check.skipped(NAME, str(problem))
    fed = tiny.tiny_feeds(parent, batch=sizes[0], length=sizes[1])
    own = tiny.tiny_feeds(clone, batch=sizes[0], length=sizes[1])  # its caches are narrower
    try:
        # as fused, integer products round what they multiply, each size its own way
        fused = not _holds_integers(parent)
        expected = open_session(reference, optimise=fused).run(fed)
        shared = {name: array for name, array in fed.items() if name in own and array.shape == own[name].shape}
        actual = open_session(clone, optimise=fused).run({**own, **shared})
    except UnsupportedGraph as problem:
        return Check.of(NAME, [str(problem)], "")
    worst, where = difference(*_aligned(_not_renumbered(expected, claims), actual, claims.plan))
    limit = allowed(
        worst, parent, lambda: difference(expected, open_session(reference, optimise=not fused).run(fed))[0]
    )
    return Check.measured(NAME, worst, limit, f"largest relative difference, in output {where}")


def allowed(worst: float, parent: Model, another: Callable[[], float]) -> float:
    """The tolerance for a difference from what the parent gives. Some models multiply rounding: how much, the
    difference that another order of sums makes in the very same graph says (``another``)."""
    limit = tolerance(parent)
    return min(max(limit, ORDERS * another()), ILL) if limit < worst < ILL else limit


def tolerance(*models: Model) -> float:
    """By the coarsest float type among the weights."""
    types = {str(array.dtype) for model in models for array in model.constants().values()}
    return max([TOLERANCE[dtype] for dtype in types & TOLERANCE.keys()] or [TOLERANCE["float64"]])


def _holds_integers(model: Model) -> bool:
    """Weights of 8 bits."""
    return any(a.dtype.itemsize == 1 and a.dtype.kind in "iu" and a.ndim > 1 for a in model.constants().values())


def _not_renumbered(outputs: Mapping[str, Array], claims: Claims) -> Mapping[str, Array]:
    """Without an attention its caches are gone, and those after it have other numbers."""
    plain = {name: array for name, array in outputs.items() if not DIGIT.search(name)}
    gone = any(claims.plan.drop_attention.values()) or any(claims.plan.drop_blocks.values())
    return plain if plain and gone else outputs


def _aligned(
    expected: Mapping[str, Array], actual: Mapping[str, Array], plan: Plan
) -> tuple[dict[str, Array], Mapping[str, Array]]:
    """Outputs that hold channels or heads, cut and ordered as some kept set of the plan says; others as they are."""
    sets = {tuple(kept) for kept in plan.keep.values()}
    return {name: _best(array, actual.get(name), sets) for name, array in expected.items()}, actual


def _best(array: Array, wanted: Array | None, sets: set[tuple[int, ...]]) -> Array:
    if wanted is None or wanted.ndim != array.ndim:
        return array
    fitting = [made for made in (array, *_taken(array, wanted, sets)) if made.shape == wanted.shape]
    return min(fitting, key=lambda made: difference({"": made}, {"": wanted})[0], default=array)


def _taken(array: Array, wanted: Array, sets: set[tuple[int, ...]]) -> Iterator[Array]:
    """The array at each kept set, or product of two (heads that are groups times heads of a group), that fits the one
    axis in which it may differ."""
    axes = [k for k, (a, b) in enumerate(zip(array.shape, wanted.shape, strict=True)) if a != b]
    for axis in axes if len(axes) == 1 else range(array.ndim) if not axes else ():
        for kept in sorted(_fitting(sets, array.shape[axis], wanted.shape[axis])):
            yield np.take(array, kept, axis=axis)


def _fitting(sets: set[tuple[int, ...]], size: int, count: int) -> Iterator[tuple[int, ...]]:
    """Lists of ``count`` positions out of ``size``: kept sets, and outer x inner ones, where one may be whole."""
    yield from (kept for kept in sets if len(kept) == count and max(kept) < size)
    factors = {kept for kept in sets if count % len(kept) == 0}
    for width in (w for w in range(2, size) if size % w == 0):
        whole = {tuple(range(width)), tuple(range(size // width))}
        for outer, inner in product(factors | whole, repeat=2):
            fits = len(outer) * len(inner) == count and max(inner) < width and max(outer) < size // width
            if fits and not factors.isdisjoint((outer, inner)):
                yield tuple(o * width + i for o in outer for i in inner)


def _not_applicable(parent: Model, clone: Model, claims: Claims) -> str | None:
    """Why this clone is not the parent with something zeroed, or None."""
    if any(claims.plan.repeat_blocks.values()):
        return "blocks were repeated"
    if any(claims.plan.drop_blocks.values()) and (node := _stops_the_stream(parent, clone)):
        return (
            f"even with zero weights a dropped block of this parent hands the stream on changed ({node}): there are no "
            "numbers to compare with, and the other checks, of every node and weight, speak for the clone"
        )
    for group in claims.plan.keep:
        if NUMBERED.sub("", group).endswith(DIVISOR) and _is_cut(parent, claims, group):
            return f"{group} is cut, which changes what attention divides by"
    return None


def _stops_the_stream(parent: Model, clone: Model) -> str | None:
    """Where the clone reads one value for another of the parent's: the node from which that other is not a sum with
    it."""
    makers = {t.name: node for node in parent.graph.nodes for t in node.outputs if t.name}
    before = parent.graph.tensors()
    numbered = _numbered(parent)
    for node in clone.graph.nodes:
        if any(t.name in numbered for t in node.outputs):
            continue
        twin = next((makers[t.name] for t in node.outputs if t.name in makers), None)
        for old, new in zip(twin.inputs if twin else (), node.inputs, strict=False):
            known = isinstance(new, gs.Variable) and isinstance(old, gs.Variable) and new.name in before
            known = known and not {old.name, getattr(new, "name", "")} <= numbered
            if known and new.name != old.name and _is_float(old) and not _sum_with(old, new.name):
                return f"{old.name} is no sum with {new.name}"
    return None


def _numbered(parent: Model) -> set[str]:
    """Outputs that carry a block's number, beside plain ones: caches, which are other blocks' in the clone."""
    numbered = {t.name for t in parent.graph.outputs if DIGIT.search(t.name)}
    return numbered if len(numbered) < len(parent.graph.outputs) else set()


def _is_float(tensor: gs.Variable) -> bool:
    return tensor.dtype is None or np.dtype(tensor.dtype).kind in "fV"


def _sum_with(tensor: gs.Tensor, wanted: str) -> bool:
    """Is a value the sum of another and more?"""
    waiting, seen = [tensor], {tensor.name}
    while waiting:
        held = waiting.pop()
        if held.name == wanted:
            return True
        maker = held.inputs[0] if held.inputs else None
        if maker is None or maker.op not in HANDS_ON or (maker.op.startswith("Skip") and held is maker.outputs[0]):
            continue
        fresh = [t for t in maker.inputs if t.name not in seen]
        seen |= {t.name for t in fresh}
        waiting += fresh
    return False


def _is_cut(parent: Model, claims: Claims, group: str) -> bool:
    """Is some axis shorter for what it keeps of this group's neurons, alone or of each head?"""
    constants = parent.constants()
    kept = np.asarray(claims.plan.keep[group], dtype=np.int64)
    return any(
        indices is not None and size > indices.size and shows(indices, size, kept)
        for claim in claims.slices.values()
        if claim.parent in constants
        for size, indices in zip(constants[claim.parent].shape, claim.take, strict=False)
    )
