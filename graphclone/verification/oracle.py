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

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.verification.claims import Claims
from graphclone.verification.joins import counted_anew, join, joins
from graphclone.verification.memory import too_large
from graphclone.verification.norms import leave_out
from graphclone.verification.report import Check
from graphclone.verification.scores import follow, measured
from graphclone.verification.sessions import open_session
from graphclone.verification.slices import shows
from graphclone.verification.zeroed import Ambiguous, difference, zeroed

Array = np.ndarray[Any, Any]

DIVISOR = "qk_dim"  # end of the names of groups whose size attention divides by
NUMBERED = re.compile(r"\.\d+$")  # several groups of a kind in a block: blocks.0.qk_dim.2
DIGIT = re.compile(r"\d")
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
        if any(claims.plan.drop_blocks.values()):
            join(reference, joins(parent, clone))
        fed = tiny.tiny_feeds(parent, batch=sizes[0], length=sizes[1])
        own = tiny.tiny_feeds(clone, batch=sizes[0], length=sizes[1])  # its caches are narrower
        divided = any(_is_divided_by(group) and _is_cut(parent, claims, group) for group in claims.plan.keep)
        sized = (measured(parent, fed), measured(clone, own)) if divided else ({}, {})
        leave_out(reference, parent, clone, claims, sized)
        if divided:
            follow(reference, clone, claims, own)
    except (Ambiguous, UnsupportedGraph) as problem:
        return Check.skipped(NAME, str(problem))
    try:
        # as fused, integer products round what they multiply, each size its own way
        fused = not _holds_integers(parent)
        expected = open_session(reference, optimise=fused).run(fed)
        shared = {name: array for name, array in fed.items() if name in own and array.shape == own[name].shape}
        actual = open_session(clone, optimise=fused).run({**own, **shared})
    except UnsupportedGraph as problem:
        return Check.of(NAME, [str(problem)], "")
    worst, where = difference(*_aligned(_not_renumbered(expected, claims), actual, claims))
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
    expected: Mapping[str, Array], actual: Mapping[str, Array], claims: Claims
) -> tuple[dict[str, Array], Mapping[str, Array]]:
    """Outputs that hold channels or heads, cut and ordered as some kept set of the plan says; others as they are."""
    sets = {tuple(kept) for kept in claims.plan.keep.values()}
    takes = [take for claim in claims.slices.values() for take in claim.take if take is not None and take.size]
    return {name: _best(array, actual.get(name), sets, takes) for name, array in expected.items()}, actual


def _best(array: Array, wanted: Array | None, sets: set[tuple[int, ...]], takes: list[Array]) -> Array:
    if wanted is None or wanted.ndim != array.ndim:
        return array
    fitting = [made for made in (array, *_taken(array, wanted, sets, takes)) if made.shape == wanted.shape]
    return min(fitting, key=lambda made: difference({"": made}, {"": wanted})[0], default=array)


def _taken(array: Array, wanted: Array, sets: set[tuple[int, ...]], takes: list[Array]) -> Iterator[Array]:
    """The array at each kept set, product of two (heads that are groups times heads of a group), or what a weight takes
    of its first head (of which a part may turn), that fits the one axis in which it may differ."""
    axes = [k for k, (a, b) in enumerate(zip(array.shape, wanted.shape, strict=True)) if a != b]
    for axis in axes if len(axes) == 1 else range(array.ndim) if not axes else ():
        size, count = array.shape[axis], wanted.shape[axis]
        for kept in sorted({*_fitting(sets, size, count), *_of_a_head(takes, size, count)}):
            yield np.take(array, kept, axis=axis)


def _of_a_head(takes: list[Array], size: int, count: int) -> Iterator[tuple[int, ...]]:
    for take in takes:
        first = take[take // size == take[0] // size] % size
        if first.size == count:
            yield tuple(first.tolist())


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
    gone = next(joins(parent, clone), None) if any(claims.plan.drop_blocks.values()) else None
    halved = any(claims.plan.drop_attention.values()) or any(claims.plan.drop_feed_forward.values())
    if gone is not None and (halved or counted_anew(parent, clone)):
        return (
            f"even with zero weights a dropped block of this parent hands the stream on changed ({gone}): there are no "
            f"numbers to compare with, and the other checks, of every node and weight, speak for the clone"
        )
    return None


def _is_divided_by(group: str) -> bool:
    """Is a group's size what attention divides by, or a share of it?"""
    return NUMBERED.sub("", group).endswith(DIVISOR)


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
