"""Does the plan ask for the slices that the clone claims to be made of, and do the parent's nodes read them?

The plan speaks of groups of neurons, the claims of axes; an axis is explained where its indices are a product of kept
sets, in mixed radix (heads x head size, packed Q|K|V, rotary halves).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification import missing, nodes, weights
from graphclone.verification.claims import Claims, Indices
from graphclone.verification.report import Check
from graphclone.verification.weights import fits

Array = np.ndarray[Any, Any]

DEPTH = 3  # factors of an axis: parts packed in it, heads, halves of a rotary head
PARTS = 32  # unequal parts packed in one axis (Q, K and V of grouped queries) end at multiples of 1/32 at the finest


def examine(parent: Model, clone: Model, claims: Claims) -> list[Check]:
    """Weights held against the parent's byte for byte, and the slices taken of them against the plan."""
    before, after = parent.constants(), clone.constants()
    explained, kept = f"{_cuts(claims)} cut axes, each explained", f"{len(claims.plan.keep)} groups kept as planned"
    return [
        weights.examine(before, after, claims),
        missing.examine(parent, clone, claims),
        Check.of(
            "slices follow the plan", [*_unplanned(before, claims), *nodes.faults(parent, clone, claims)], explained
        ),
        Check.of("the plan is carried out", _unused_keeps(before, claims), kept),
    ]


def _cut_axes(before: Mapping[str, Array], claims: Claims) -> Iterator[tuple[str, int, Indices, int]]:
    """(initializer, axis, indices, the parent's size there) of every axis that is not simply whole."""
    for key, claim in sorted(claims.slices.items()):
        if claim.parent is None or claim.parent not in before or not fits(before[claim.parent], claim):
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
    """Kept sets that no axis shows, although they are not all that the parent has."""
    known: dict[tuple[bytes, int], frozenset[bytes] | None] = {}
    kept = _kept_sets(claims.plan)
    shown: set[bytes] = set()
    axes = list(_cut_axes(before, claims))
    for _, _, indices, size in axes:
        shown |= factors(indices, size, frozenset(kept), known) or frozenset()
    gone = _prefixes_of_dropped_blocks(claims.plan)
    for group, neurons in sorted(claims.plan.keep.items()):
        if group.startswith(gone):
            continue
        array = np.asarray(neurons, dtype=np.int64)
        # a clone that says of no group how many there were, as those of before, may have kept everything
        whole = claims.groups.get(group, 0 if claims.groups else array.size)
        if array.tobytes() in shown or np.array_equal(array, np.arange(whole)):
            continue
        if not any(shows(indices, size, array) for _, _, indices, size in axes):
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
    return _before_whole_parts(indices, size, kept)


def _before_whole_parts(indices: Indices, size: int, kept: frozenset[bytes]) -> frozenset[bytes] | None:
    """A kept set, then parts that stay whole: 71 queries, a key and a value in an axis of 73, which nothing divides."""
    for rest in range(1, min(PARTS, indices.size - 1) + 1):
        if indices[-rest] != size - rest:
            return None
        first = indices[:-rest]
        if first.tobytes() in kept and first.max() < size - rest:
            return frozenset([first.tobytes()])
    return None


def shows(indices: Indices, size: int, wanted: Indices, depth: int = DEPTH) -> bool:
    """Is a kept set among the factors of this list of indices, in some explanation? ``factors`` finds one of many.

    >>> heads, dims = np.array([0, 2]), np.array([0, 2])  # of 4 heads, 4 wide: also 8 pairs, of which every other two
    >>> shows((heads[:, None] * 4 + dims).reshape(-1), 16, dims)
    True
    """
    if np.array_equal(indices, wanted):
        return True
    if not depth or indices.size <= wanted.size:
        return False
    widths = [width for width in range(2, size // 2 + 1) if size % width == 0]
    for width in widths:
        product = _product(indices, width)
        if product and (
            shows(product[1], width, wanted, depth - 1) or shows(product[0], size // width, wanted, depth - 1)
        ):
            return True
    for boundary in {b for width in widths if size // width <= PARTS for b in range(width, size, width)}:
        count = int(np.count_nonzero(indices < boundary))  # parts packed in one axis: the first will do
        apart = 0 < count < indices.size and indices[:count].max() < boundary
        if apart and depth == DEPTH and shows(indices[:count], boundary, wanted, depth - 1):
            return True
    return False


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
