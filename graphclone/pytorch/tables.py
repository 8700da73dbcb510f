"""Tells by their values which float constants are no weights: masks, and cosines and sines of angles.

Rules that values alone decide have to be strict: training must not stop because the numbers of a weight look smooth. A
vector is never a table, a weight with an outlier no mask, and gains near 1 or weights of two values no angles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from graphclone.pages import release

Array = np.ndarray[Any, np.dtype[Any]]
MASKED = 1e4
SHARE = 0.1  # of a mask's numbers, at least, that hide something, where the others are of many kinds
KINDS = 2  # numbers that an open place of a mask may be
SAMPLE = 1 << 16
ROUNDED = 0.02  # relative, of the squares' sum: bfloat16 and interpolated tables
TURNED = 0.5  # share of the radius by which a cosine's or sine's size has to vary over a table


def by_value(arrays: Mapping[str, Array], multiplied: Collection[str]) -> set[str]:
    """Names of the tables. ``multiplied``: operands of matrix products, which no mask is."""
    found = {name for name, values in arrays.items() if name not in multiplied and is_mask(values)}
    wide = {name: values for name, values in arrays.items() if name not in found and _is_wide(values)}
    found |= _angle_tables(wide)
    return found | {name for name, values in wide.items() if name not in found and _is_circle(values)}


def is_mask(values: Array) -> bool:
    """It holds infinities, or numbers as large as 10,000 beside one or two others; a NaN is no sign of it."""
    if values.dtype == ml_dtypes.bfloat16:
        values = values.astype(np.float32)
    small = values.min() > -MASKED and values.max() < MASKED  # a NaN makes both comparisons false
    mask = not small and _hides(values.reshape(-1))
    release(values)
    return mask


def _hides(values: Array) -> bool:
    if bool(np.isinf(values).any()):
        return True
    large = np.abs(values) >= MASKED
    if not large.any():
        return False
    others = values[~large]
    return bool(large.mean() >= SHARE) or len(np.unique(others[:: len(others) // SAMPLE + 1])) <= KINDS


def _is_wide(values: Array) -> bool:
    """Two axes or more that are longer than one."""
    return values.ndim > 1 and max(values.shape) < values.size


def _angle_tables(arrays: Mapping[str, Array]) -> set[str]:
    """Pairs that are a cosine and a sine of the same angles."""
    by_shape: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name in sorted(arrays):
        values = arrays[name]
        if values.size > 4 and abs(float(values.flat[0])) <= 16:
            by_shape[(values.shape, values.dtype)].append(name)
    found: set[str] = set()
    for names in by_shape.values():
        heads = {name: arrays[name].reshape(-1)[:64].astype(np.float64) for name in names}
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                if _one_circle(heads[one], heads[other]) and _turns(
                    arrays[one].astype(np.float64), arrays[other].astype(np.float64)
                ):
                    found |= {one, other}
    return found


def _is_circle(values: Array) -> bool:
    """Sines in the one half of each row, cosines of the same angles in the other."""
    width = values.shape[-1]
    if width < 2 or width % 2 or values.size != width * values.shape[-2]:
        return False
    rows = values.reshape(-1, width)
    return _one_circle(*_halves(rows[:4])) and _turns(*_halves(rows))


def _halves(values: Array) -> tuple[Array, Array]:
    wide = values.astype(np.float64)
    return wide[:, : wide.shape[1] // 2], wide[:, wide.shape[1] // 2 :]


def _one_circle(a: Array, b: Array) -> bool:
    """cos² + sin² is one constant."""
    total = a * a + b * b
    return bool(total.mean() > 0 and np.ptp(total) <= ROUNDED * total.mean())


def _turns(a: Array, b: Array) -> bool:
    """Angles of one circle that turn, or start at zero: neither points that stay in a corner nor signs of one size."""
    if not _one_circle(a, b) or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return False
    radius = float(np.sqrt((a * a + b * b).mean()))
    varies = max(np.ptp(np.abs(a)), np.ptp(np.abs(b))) > TURNED * radius
    return bool(varies) or any(not sine[..., 0, :].any() for sine in (a, b))
