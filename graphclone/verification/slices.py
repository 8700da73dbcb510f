"""Is each initializer the slice of the parent that the clone claims, and does the plan ask for those slices?

Recomputed from the parent's bytes with NumPy alone. The plan speaks of groups of neurons, the claims of axes; an axis
is explained where its indices are a product of kept sets, in mixed radix (heads x head size, packed Q|K|V, rotary
halves).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification.claims import Claims, Indices, Slice
from graphclone.verification.report import Check

Array = np.ndarray[Any, Any]

PARTS = 32  # unequal parts packed in one axis (Q, K and V of grouped queries) end at multiples of 1/32 at the finest
REPLACING = frozenset({"norm-gain", "least-squares"})  # passes that compute weights anew from what was measured
SHAPE_CONSTANT_LIMIT = 64  # elements; a constant that encodes sizes is a list of dimensions, never a weight


def examine(parent: Model, clone: Model, claims: Claims) -> list[Check]:
    """The checks of section (d): bytes against the parent, indices against the plan."""
    before, after = parent.constants(), clone.constants()
    explained, kept = f"{_cuts(claims)} cut axes, each explained", f"{len(claims.plan.keep)} groups kept as planned"
    return [
        _bytes(before, after, claims),
        Check.of("slices follow the plan", _unplanned(before, claims), explained),
        Check.of("the plan is carried out", _unused_keeps(before, claims), kept),
    ]


def _bytes(before: Mapping[str, Array], after: Mapping[str, Array], claims: Claims) -> Check:
    name = "weights are the parent's slices"
    if claims.trained:
        faults = [fault for key, array in after.items() if (fault := _other_shape(key, array, before, claims))]
        if faults:
            return Check.of(name, faults, "")
        return Check.skipped(name, "the clone was trained after the cut: only names, types and shapes were compared")
    faults = [fault for key, array in after.items() if (fault := _difference(key, array, before, claims))]
    replaced = sum(claims.slices[key].replaced for key in after if key in claims.slices)
    but = f"; {replaced} recomputed by {claims.method}, of their slices' shapes and finite" if replaced else ""
    return Check.of(name, faults, f"{len(after) - replaced} initializers byte-identical to the parent's slices{but}")


def _other_shape(key: str, array: Array, before: Mapping[str, Array], claims: Claims) -> str | None:
    expected = _expected(key, array, before, claims)
    if isinstance(expected, str):
        return expected
    if expected.dtype != array.dtype or expected.shape != array.shape:
        return f"{key} is {array.dtype}{list(array.shape)}, its slice {expected.dtype}{list(expected.shape)}"
    return None


def _difference(key: str, array: Array, before: Mapping[str, Array], claims: Claims) -> str | None:
    """What is wrong with one initializer, or None."""
    expected = _expected(key, array, before, claims)
    if isinstance(expected, str):
        return expected
    if expected.dtype != array.dtype or expected.shape != array.shape:
        return f"{key} is {array.dtype}{list(array.shape)}, its slice {expected.dtype}{list(expected.shape)}"
    claim = claims.slices[key]
    if claim.replaced:
        allowed = not REPLACING.isdisjoint(claims.plan.method.split("+")) and array.dtype.kind in "fV"
        if not allowed:
            return f"{key} is claimed to be recomputed, which method {claims.plan.method} does to no such weight"
        return None if np.isfinite(array.astype(np.float64)).all() else f"{key} holds NaN or infinite numbers"
    same = _raw(expected) == _raw(array)
    if np.all(same):
        return None
    return f"{key} {list(array.shape)}: {np.count_nonzero(~same)} bytes of {same.size} differ from the parent's slice"


def _raw(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _expected(key: str, array: Array, before: Mapping[str, Array], claims: Claims) -> Array | str:
    """The initializer that the claim describes, or why it describes none."""
    claim = claims.slices.get(key)
    if claim is None:
        return f"{key} {list(array.shape)} is claimed to be no slice of the parent"
    if claim.shape_constant:
        small = array.size <= SHAPE_CONSTANT_LIMIT and (array.dtype.kind in "iub" or array.size == 1)
        return array if small else f"{key} {array.dtype}{list(array.shape)} is no constant that encodes a size"
    assert claim.parent is not None
    source = before.get(claim.parent)
    if source is None:
        return f"{key} is claimed from {claim.parent}, which the parent does not have"
    if not _fits(source, claim):
        return f"{key}: the claimed indices do not fit {claim.parent} {list(source.shape)}"
    if claim.tokens:
        return _counted_anew(key, source, claims.tokens)
    return recompute(source, claim)


def _counted_anew(key: str, source: Array, kept: Indices | None) -> Array | str:
    """Ids of tokens among those kept. Below zero no token is meant, beyond all of them none either."""
    if kept is None or source.dtype.kind not in "iuf" or source.size > SHAPE_CONSTANT_LIMIT:
        return f"{key} {source.dtype}{list(source.shape)} is no list of tokens that were counted anew"
    return np.where(source < 0, source, np.searchsorted(kept, source)).astype(source.dtype)


def _fits(source: Array, claim: Slice) -> bool:
    """One entry an axis, each index inside it and named once."""
    if len(claim.take) != source.ndim:
        return False
    for size, indices in zip(source.shape, claim.take, strict=True):
        if indices is None:
            continue
        if indices.size and (indices.min() < 0 or indices.max() >= size or np.unique(indices).size != indices.size):
            return False
    return True


def recompute(source: Array, claim: Slice) -> Array:
    """np.take along each axis, then times the scale in float32 (float64 for float64), in the source's own dtype."""
    result = source
    for axis, indices in enumerate(claim.take):
        if indices is not None:
            result = np.take(result, indices, axis=axis)
    if claim.scale == 1.0:
        return result
    wide = np.promote_types(source.dtype, np.float32)
    return np.asarray(result.astype(wide) * np.asarray(claim.scale, wide)).astype(source.dtype)


def _cut_axes(before: Mapping[str, Array], claims: Claims) -> Iterator[tuple[str, int, Indices, int]]:
    """(initializer, axis, indices, the parent's size there) of every axis that is not simply whole."""
    for key, claim in sorted(claims.slices.items()):
        if claim.parent is None or claim.parent not in before or not _fits(before[claim.parent], claim):
            continue
        for axis, (size, indices) in enumerate(zip(before[claim.parent].shape, claim.take, strict=True)):
            if indices is not None and not np.array_equal(indices, np.arange(size)):
                yield key, axis, indices, size


def _cuts(claims: Claims) -> int:
    return sum(indices is not None for claim in claims.slices.values() for indices in claim.take)


def _kept_sets(plan: Plan) -> dict[bytes, Indices]:
    arrays = (np.asarray(kept, dtype=np.int64) for kept in plan.keep.values())
    return {array.tobytes(): array for array in arrays}


def _unplanned(before: Mapping[str, Array], claims: Claims) -> Iterator[str]:
    known: dict[tuple[bytes, int], frozenset[bytes] | None] = {}
    kept = frozenset(_kept_sets(claims.plan))
    for key, axis, indices, size in _cut_axes(before, claims):
        if factors(indices, size, kept, known) is None:
            yield f"{key} axis {axis}: {indices.size} of {size} positions, which no kept set of the plan explains"


def _unused_keeps(before: Mapping[str, Array], claims: Claims) -> Iterator[str]:
    """Kept sets that no axis shows, although they are not the leading run that also 'everything' would be."""
    known: dict[tuple[bytes, int], frozenset[bytes] | None] = {}
    kept = _kept_sets(claims.plan)
    shown: set[bytes] = set()
    for _, _, indices, size in _cut_axes(before, claims):
        shown |= factors(indices, size, frozenset(kept), known) or frozenset()
    gone = _prefixes_of_dropped_blocks(claims.plan)
    for group, neurons in sorted(claims.plan.keep.items()):
        if group.startswith(gone):
            continue
        array = np.asarray(neurons, dtype=np.int64)
        if array.tobytes() not in shown and not np.array_equal(array, np.arange(array.size)):
            yield f"group {group} keeps {array.size} neurons in the plan, and no weight is cut so"


def _prefixes_of_dropped_blocks(plan: Plan) -> tuple[str, ...]:
    """Groups are named ``blocks.3.ffn``; where there are several stacks, the stack stands before it."""
    return tuple(
        f"{'' if stack == 'blocks' else stack + '.'}blocks.{index}."
        for stack, indices in plan.drop_blocks.items()
        for index in indices
    )


def factors(
    indices: Indices, size: int, kept: frozenset[bytes], known: dict[tuple[bytes, int], frozenset[bytes] | None]
) -> frozenset[bytes] | None:
    """The kept sets whose product, outer x inner, is this list of indices out of ``size``; None where there is none.

    >>> keep = np.array([0, 2]); names = frozenset([keep.tobytes()])
    >>> factors(np.array([0, 1, 4, 5]), 6, names, {}) == names      # heads 0 and 2 of 3, two wide
    True
    >>> factors(np.array([0, 1, 5]), 6, names, {}) is None
    True
    """
    question = (indices.tobytes(), size)
    if question not in known:
        known[question] = _factors(indices, size, kept, known)
    return known[question]


def _factors(
    indices: Indices, size: int, kept: frozenset[bytes], known: dict[tuple[bytes, int], frozenset[bytes] | None]
) -> frozenset[bytes] | None:
    if indices.tobytes() in kept:
        return frozenset([indices.tobytes()])
    if np.array_equal(indices, np.arange(size)):
        return frozenset()
    if not indices.size:
        return None
    widths = [width for width in range(2, size // 2 + 1) if size % width == 0]
    for width in widths:
        parts = _product(indices, width)
        found = parts and _both(factors(parts[0], size // width, kept, known), parts[1], width, kept, known)
        if found is not None:
            return found
    for boundary in (b for width in widths if size // width <= PARTS for b in range(width, size, width)):
        count = int(np.count_nonzero(indices < boundary))  # unequal parts packed in one axis: the first, then the rest
        if 0 < count < indices.size and indices[:count].max() < boundary:
            first = factors(indices[:count], boundary, kept, known)
            found = _both(first, indices[count:] - boundary, size - boundary, kept, known)
            if found is not None:
                return found
    return None


def _product(indices: Indices, width: int) -> tuple[Indices, Indices] | None:
    """(outer, inner) with indices = outer x width + inner, all pairs in order; None where they are no such product."""
    outer, inner = indices // width, indices % width
    count = int(np.count_nonzero(outer == outer[0]))
    if indices.size % count:
        return None
    first, rest = outer[::count], inner[:count]
    return (first, rest) if np.array_equal(indices, (first[:, None] * width + rest).reshape(-1)) else None


def _both(
    left: frozenset[bytes] | None,
    rest: Indices,
    size: int,
    kept: frozenset[bytes],
    known: dict[tuple[bytes, int], frozenset[bytes] | None],
) -> frozenset[bytes] | None:
    right = factors(rest, size, kept, known) if left is not None else None
    return left | right if left is not None and right is not None else None
