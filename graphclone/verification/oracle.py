"""The zeroed parent: a neuron or head whose weights are all zero contributes exactly nothing.

So a clone that drops only feed-forward neurons and heads, at full residual width and depth, computes what the parent
computes with the dropped positions of its weights set to zero and the rest scaled as the clone's are. A narrower
residual stream has no such oracle (its norms average over fewer channels), nor has a shorter stack here: those are not
applicable.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification.claims import Claims, Slice
from graphclone.verification.memory import too_large
from graphclone.verification.norms import narrowed
from graphclone.verification.report import Check
from graphclone.verification.sessions import open_session
from graphclone.verification.slices import shows
from graphclone.verification.weights import recompute

Array = np.ndarray[Any, Any]

DIVISORS = ("residual", "qk_dim")  # ends of the names of groups whose size norms and attention divide by
NUMBERED = re.compile(r"\.\d+$")  # several groups of a kind in a block: blocks.0.qk_dim.2
NAME = "equals the zeroed parent"

# largest |difference| over largest |parent output|, by the coarsest float type among the weights: sums are taken in
# another order, so this grows with the type's rounding (2^-24, 2^-11, 2^-8) and not with the cut
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def examine(parent: Model, clone: Model, claims: Claims, sizes: tuple[int, int] = (2, 7)) -> Check:
    """Compare the clone's outputs with the zeroed parent's on one batch of ``sizes`` (batch, length)."""
    reason = _not_applicable(parent, clone, claims) or too_large(parent, clone)
    if reason:
        return Check.skipped(NAME, reason)
    fed = tiny.tiny_feeds(parent, batch=sizes[0], length=sizes[1])
    own = tiny.tiny_feeds(clone, batch=sizes[0], length=sizes[1])  # its caches are narrower
    try:
        fused = not _holds_integers(
            parent
        )  # as fused, integer products round what they multiply, each size its own way
        expected = open_session(zeroed(parent, claims), optimise=fused).run(fed)
        shared = {name: array for name, array in fed.items() if name in own and array.shape == own[name].shape}
        actual = open_session(clone, optimise=fused).run({**own, **shared})
    except UnsupportedGraph as problem:
        return Check.of(NAME, [str(problem)], "")
    worst, where = difference(_not_renumbered(expected, claims), actual)
    types = {str(array.dtype) for array in parent.constants().values()}
    tolerance = max([TOLERANCE[dtype] for dtype in types & TOLERANCE.keys()] or [TOLERANCE["float64"]])
    return Check.measured(NAME, worst, tolerance, f"largest relative difference, in output {where}")


def _holds_integers(model: Model) -> bool:
    """Weights of 8 bits."""
    return any(a.dtype.itemsize == 1 and a.dtype.kind in "iu" and a.ndim > 1 for a in model.constants().values())


def _not_renumbered(outputs: Mapping[str, Array], claims: Claims) -> Mapping[str, Array]:
    """Without an attention its caches are gone, and those after it have other numbers."""
    plain = {name: array for name, array in outputs.items() if not any(letter.isdigit() for letter in name)}
    return plain if plain and any(claims.plan.drop_attention.values()) else outputs


def _not_applicable(parent: Model, clone: Model, claims: Claims) -> str | None:
    """Why this clone is not the parent with something zeroed, or None."""
    if claims.trained:
        return "the clone was trained after the cut"
    if any(claims.plan.drop_blocks.values()):
        return "blocks were dropped"
    if any(claims.plan.repeat_blocks.values()):
        return "blocks were repeated"
    if _drops_parts(claims.plan) and (shared := _read_less_often(parent, clone, claims)):
        return f"{shared} is read by what was dropped and by what was kept"
    for group in claims.plan.keep:
        if NUMBERED.sub("", group).endswith(DIVISORS) and _is_cut(parent, claims, group):
            return f"{group} is cut, which changes what norms or attention divide by"
    if name := narrowed(parent, clone):
        return f"the norm that makes {name} averages over fewer channels than the parent's"
    scales: dict[str | None, float] = {}
    for claim in claims.slices.values():
        if claim.replaced:
            return f"weights were recomputed by {claims.method} to make up for what was dropped"
        if scales.setdefault(claim.parent, claim.scale) != claim.scale:
            return f"{claim.parent} is scaled differently by its several uses"
    return None


def _drops_parts(plan: Plan) -> bool:
    """An attention or a feed-forward of a block that stays."""
    return any(plan.drop_attention.values()) or any(plan.drop_feed_forward.values())


def _read_less_often(parent: Model, clone: Model, claims: Claims) -> str | None:
    """A weight of the parent that fewer nodes of the clone read, if not none at all."""
    before, after = _reads(parent), Counter[str]()
    for name, count in _reads(clone).items():
        claim = claims.slices.get(name)
        if claim is not None and claim.parent is not None:
            after[claim.parent] += count
    return next((name for name, count in sorted(after.items()) if count != before[name]), None)


def _reads(model: Model) -> Counter[str]:
    floats = {n for n, a in model.constants().items() if str(a.dtype) in TOLERANCE and a.size > 1}
    return Counter(t.name for node in model.graph.nodes for t in node.inputs if t.name in floats)


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


def zeroed(parent: Model, claims: Claims) -> Model:
    """The parent with every position that no slice of it keeps set to zero, and scaled as its slices are.

    Where the plan drops an attention or a feed-forward, so are the weights that the clone has nothing of: a branch of
    zeros adds nothing. Its own arrays stay as they are.
    """
    uses: dict[str, list[Slice]] = {}
    for claim in claims.slices.values():
        if claim.parent is not None:
            uses.setdefault(claim.parent, []).append(claim)
    copy, parts = parent.copy(), _drops_parts(claims.plan)
    for name, tensor in copy.graph.tensors().items():
        if not isinstance(tensor, gs.Constant) or str(tensor.values.dtype) not in TOLERANCE:
            continue
        if name not in uses:
            if parts and tensor.values.size > 1:
                tensor.values = np.zeros_like(tensor.values)
            continue
        dropped, scale = _dropped(tensor.values, uses[name]), uses[name][0].scale
        if not dropped and scale == 1.0:
            continue
        values = np.array(tensor.values)
        for axis, positions in dropped.items():
            values[(slice(None),) * axis + (positions,)] = 0
        tensor.values = recompute(values, Slice(name, (None,) * values.ndim, scale))
    return copy


def _dropped(array: Array, uses: list[Slice]) -> dict[int, Array]:
    """Positions of each axis that all uses of an initializer drop."""
    result = {}
    for axis, size in enumerate(array.shape):
        kept = np.zeros(size, dtype=bool)
        for use in uses:
            indices = use.take[axis]
            kept[slice(None) if indices is None else indices] = True
        if not kept.all():
            result[axis] = np.flatnonzero(~kept)
    return result


def difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> tuple[float, str]:
    """Largest |difference| / largest |expected| over the outputs that keep their shape, and the output it is in.

    Outputs whose shape follows the cut (caches of dropped heads) are left out; infinity where none is left, or where
    either is not finite.
    """
    worst, where = -1.0, ""
    for name, wanted in expected.items():
        found = actual.get(name)
        if found is None or found.shape != wanted.shape:
            continue
        a, b = np.asarray(wanted, dtype=np.float64), np.asarray(found, dtype=np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf"), name
        distance = float(np.abs(a - b).max(initial=0.0)) / max(float(np.abs(a).max(initial=0.0)), 1e-12)
        if distance > worst:
            worst, where = distance, name
    return (worst, where) if where else (float("inf"), "(none kept its shape)")
