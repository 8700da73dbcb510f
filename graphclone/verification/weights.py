"""Is each initializer, byte for byte, the slice of the parent that the clone claims? Recomputed with NumPy alone.

Both files stay on disk: a few rows of a weight at a time are compared, and given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphclone.pages import release
from graphclone.verification.claims import Claims, Indices, Slice
from graphclone.verification.report import Check

Array = np.ndarray[Any, Any]

NAME = "weights are the parent's slices"
# passes that compute weights from what was measured
REPLACING = frozenset({"norm-gain", "least-squares", "mean-bias", "depth-patch", "read-in", "pca"})
SHAPE_CONSTANT_LIMIT = 64  # elements; a constant that encodes sizes is a list of dimensions, never a weight
AT_ONCE = 1 << 22  # bytes of a weight that are compared at a time


def examine(before: Mapping[str, Array], after: Mapping[str, Array], claims: Claims) -> Check:
    """The parent's constants, the clone's, and what it says of them."""
    faults = [fault for key, array in after.items() if (fault := _fault(key, array, before, claims))]
    if claims.trained and not faults:
        return Check.skipped(NAME, "the clone was trained after the cut: only names, types and shapes were compared")
    replaced = sum(claims.slices[key].replaced for key in after if key in claims.slices)
    but = f"; {replaced} recomputed by {claims.method}, of their slices' shapes and finite" if replaced else ""
    return Check.of(NAME, faults, f"{len(after) - replaced} initializers byte-identical to the parent's slices{but}")


def _fault(key: str, array: Array, before: Mapping[str, Array], claims: Claims) -> str | None:
    """What is wrong with one initializer, or None."""
    claim = claims.slices.get(key)
    if claim is None:
        return f"{key} {list(array.shape)} is claimed to be no slice of the parent"
    if claim.shape_constant:
        small = array.size <= SHAPE_CONSTANT_LIMIT and (array.dtype.kind in "iub" or array.size == 1)
        return None if small else f"{key} {array.dtype}{list(array.shape)} is no constant that encodes a size"
    assert claim.parent is not None
    source = before.get(claim.parent)
    if source is None:
        return f"{key} is claimed from {claim.parent}, which the parent does not have"
    if not fits(source, claim):
        return f"{key}: the claimed indices do not fit {claim.parent} {list(source.shape)}"
    shape = _shape(source, claim)
    if source.dtype != array.dtype or shape != array.shape:
        return f"{key} is {array.dtype}{list(array.shape)}, its slice {source.dtype}{list(shape)}"
    if claims.trained:
        return None
    if claim.tokens:
        expected = _counted_anew(key, source, claims.tokens)
        if isinstance(expected, str):
            return expected
        return _differing(key, array, int(np.count_nonzero(_raw(expected) != _raw(array))))
    return _replaced(key, array, claims) if claim.replaced else _differing(key, array, _compared(array, source, claim))


def _replaced(key: str, array: Array, claims: Claims) -> str | None:
    if REPLACING.isdisjoint(claims.plan.method.split("+")) or array.dtype.kind not in "fV":
        return f"{key} is claimed to be recomputed, which method {claims.plan.method} does to no such weight"
    for rows in _runs(array):
        if not np.isfinite(array[rows].astype(np.float64)).all():
            return f"{key} holds NaN or infinite numbers"
        release(array[rows])
    return None


def _differing(key: str, array: Array, count: int) -> str | None:
    said = f"{key} {list(array.shape)}: {count} bytes of {array.nbytes} differ from the parent's slice"
    return said if count else None


def _compared(array: Array, source: Array, claim: Slice) -> int:
    """Bytes that differ."""
    count = 0
    for rows in _runs(array):
        count += int(np.count_nonzero(_raw(recompute(source, claim, rows)) != _raw(array[rows])))  # words: how many
        release(array[rows])
        release(source)
    return count


def _runs(array: Array) -> Iterator[Any]:
    """Ranges of rows of a few megabytes; of a single number, all of it."""
    if not array.ndim:
        yield ...
        return
    step = max(1, AT_ONCE // max(array.nbytes // max(len(array), 1), 1))
    yield from (slice(start, start + step) for start in range(0, len(array), step))


def _raw(array: Array) -> Array:
    if array.dtype == object:
        return array.reshape(-1)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _counted_anew(key: str, source: Array, kept: Indices | None) -> Array | str:
    """Ids of tokens among those kept. Below zero no token is meant, beyond all of them none either."""
    if kept is None or source.dtype.kind not in "iuf" or source.size > SHAPE_CONSTANT_LIMIT:
        return f"{key} {source.dtype}{list(source.shape)} is no list of tokens that were counted anew"
    return np.where(source < 0, source, np.searchsorted(kept, source)).astype(source.dtype)


def _shape(source: Array, claim: Slice) -> tuple[int, ...]:
    taken = zip(source.shape, claim.take, strict=True)
    return tuple(size if indices is None else indices.size for size, indices in taken)


def fits(source: Array, claim: Slice) -> bool:
    """One entry an axis, each index inside it and named once."""
    if len(claim.take) != source.ndim:
        return False
    for size, indices in zip(source.shape, claim.take, strict=True):
        if indices is None:
            continue
        if indices.size and (indices.min() < 0 or indices.max() >= size or np.unique(indices).size != indices.size):
            return False
    return True


def recompute(source: Array, claim: Slice, rows: Any = ...) -> Array:
    """np.take along each axis, then times the scale in float32 (float64 for float64), in the source's own dtype; of
    the result's rows those asked for."""
    result: Array = source[rows]
    for axis, indices in enumerate(claim.take):
        if indices is not None:
            result = source[indices[rows]] if axis == 0 else np.take(result, indices, axis=axis)
    if np.ndim(claim.scale) == 0 and claim.scale == 1.0:
        return result
    wide = np.promote_types(source.dtype, np.float32)
    scale = np.broadcast_to(np.asarray(claim.scale, wide), _shape(source, claim))[rows]
    return np.asarray(result.astype(wide) * scale).astype(source.dtype)
