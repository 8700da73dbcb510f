"""Numbers that follow a size: is one in the clone its parent's, times a power of what was kept over what there was?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.verification.claims import Claims

Array = np.ndarray[Any, Any]
# a root of a width, shared by up to four factors; a mean's length, its root and its share
POWERS = tuple(sign / n for n in (1, 2, 3, 4, 6, 8) for sign in (1.0, -1.0))
SAME = {"float64": 5e-3, "float32": 5e-3, "float16": 6e-3, "bfloat16": 1.2e-2}  # parents may have been rounded before
FOLDED: dict[str, Callable[..., Array]] = {  # what a factor may be computed by from constants
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Add": np.add,
    "Sub": np.subtract,
    "Neg": np.negative,
    **{op: lambda held, *_: held for op in ("Identity", "Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze")},
}


class Ratios:
    """Of every axis and group that is cut: kept over full, and the powers of it by which numbers may follow."""

    def __init__(self, claims: Claims, before: dict[str, Array]) -> None:
        pairs = set(_pairs(claims, before))
        plain = {kept / full for kept, full in pairs}
        both = {a * b for a, b in combinations(sorted(plain), 2)}
        corrected = {(kept - 1) / (full - 1) for kept, full in pairs if kept > 1}
        corrected |= {kept / full * (full - 1) / (kept - 1) for kept, full in pairs if kept > 1}
        self.factors = np.asarray(sorted({1.0, *corrected} | {r**p for r in plain | both for p in POWERS}))

    def explain(self, new: float, old: float, dtype: str) -> bool:
        """Of the same sign too."""
        if new == old:
            return True
        ratio = new / old if old else np.nan
        return bool((np.abs(ratio - self.factors) <= SAME.get(dtype, 5e-3) * self.factors).any())


def _pairs(claims: Claims, before: dict[str, Array]) -> Iterator[tuple[int, int]]:
    """(kept, full) of each."""
    for name, kept in claims.plan.keep.items():
        if 0 < len(kept) < claims.groups.get(name, 0):
            yield len(kept), claims.groups[name]
    for claim in claims.slices.values():
        source = before.get(claim.parent or "")
        for size, take in zip(source.shape, claim.take, strict=False) if source is not None else ():
            if take is not None and 0 < take.size < size:
                yield int(take.size), int(size)


def number(tensor: gs.Tensor) -> float | None:
    """What a constant, or what is computed from constants alone, holds everywhere; None where it is not told."""
    held = _values(tensor)
    if held is None or not held.size or not (held == held.reshape(-1)[0]).all():
        return None
    return float(held.reshape(-1)[0])


def _values(tensor: gs.Tensor) -> Array | None:
    if isinstance(tensor, gs.Constant):
        values: Array = np.asarray(tensor.values)
        return values.astype(np.float64) if values.dtype != object else None
    maker = next(iter(tensor.inputs), None)
    if maker is None or maker.op not in FOLDED:
        return None
    held = [_values(t) for t in maker.inputs if not t.is_empty()]
    return None if any(each is None for each in held) else FOLDED[maker.op](*held)
