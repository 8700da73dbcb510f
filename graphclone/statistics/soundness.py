"""Refuses files of statistics whose numbers cannot be the sums of a run, so that readers need not check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData
from graphclone.statistics.moments import MOMENT, MOMENT_COUNT, MOMENT_SUM

Array = np.ndarray[Any, Any]
COUNT = "count"  # the statistic that says how many positions the others sum over
UNSEEN = "unseen_"  # before a statistic: of the positions set apart
ROUNDING = 1e-3  # of sums of cosines, made in float32


@dataclass(frozen=True)
class Kind:
    """What a statistic is: a number, a vector or a matrix of the site's width; least: the smallest that it can be."""

    shape: Callable[[int], tuple[int, ...]]
    least: float = -np.inf


def _number(width: int) -> tuple[int, ...]:
    return (1,)


def _vector(width: int) -> tuple[int, ...]:
    return (width,)


def _matrix(width: int) -> tuple[int, ...]:
    return (width, width)


KINDS: Mapping[str, Kind] = {
    "abs": Kind(_vector, 0),
    "sum": Kind(_vector),
    "square": Kind(_vector, 0),
    "written": Kind(_vector),  # with second moments a position's share of its head may be below 0
    "cosine": Kind(_number),
    "ratio": Kind(_number, 0),
    "n": Kind(_vector),
    "n_square": Kind(_vector, 0),
    "k": Kind(_vector),
    "k_square": Kind(_vector, 0),
    "nk": Kind(_vector),
    MOMENT: Kind(_matrix),
    MOMENT_SUM: Kind(_vector),
    MOMENT_COUNT: Kind(_number, 0),
}
TOGETHER = (MOMENT, MOMENT_SUM, MOMENT_COUNT)  # one of them is of no use without the others
BY_POSITION = ("abs", "sum", "square", "written", MOMENT, MOMENT_SUM)  # of an anatomy's site, as wide as it is
# field of the metadata -> what it has to be, and whether it is
FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "parent": ("a text", lambda held: isinstance(held, str)),
    "batches": ("a number of batches", lambda held: type(held) is int and held >= 0),
    "providers": (
        "a list of texts",
        lambda held: isinstance(held, list) and all(isinstance(name, str) for name in held),
    ),
    "settings": (
        "texts and numbers by name",
        lambda held: isinstance(held, dict) and all(isinstance(value, str | int) for value in held.values()),
    ),
}


def refuse_odd_fields(about: Mapping[str, Any], origin: object) -> None:
    """Raises BadData for a field of the metadata that no run writes so."""
    for name, (wanted, fits) in FIELDS.items():
        if not fits(about[name]):
            raise BadData(f"{origin}: statistics with unreadable {name}: {about[name]!r:.100} is not {wanted}")


def refuse_impossible(sites: Mapping[str, Mapping[str, Array]], origin: object) -> None:
    """Raises BadData for sums that no run can have made."""
    for site, held in sites.items():
        why = _impossible(held)
        if why:
            raise BadData(f"{origin}: site {site} holds {why}: measure again")


def _impossible(held: Mapping[str, Array]) -> str:
    """Why these cannot be the sums of one site; "" where they can."""
    sums = {name: array for name, array in held.items() if name != COUNT}
    if COUNT not in held or held[COUNT].dtype != np.int64 or held[COUNT].ndim or not sums:
        return f"{', '.join(sorted(held))}: no count, or nothing counted"
    if any(array.dtype != np.float64 or array.ndim not in (1, 2) for array in sums.values()):
        return "sums that are not float64 vectors or matrices"
    if held[COUNT] < 0:
        return f"{COUNT} {int(held[COUNT])}"
    width = max(max(array.shape) for array in sums.values())
    for name, array in sums.items():
        kind = KINDS.get(name.removeprefix(UNSEEN))
        if not array.size or (kind is not None and array.shape != kind.shape(width)):
            return f"{name} of the shape {list(array.shape)}, beside sums over {width} positions"
        if not np.isfinite(array).all():
            return f"{name} that is not finite"
        if (kind is not None and array.min() < kind.least) or (array.ndim == 2 and np.diagonal(array).min() < 0):
            return f"{name} below 0"
    if "cosine" in sums and abs(sums["cosine"][0]) > (1 + ROUNDING) * int(held[COUNT]):
        return f"cosine {sums['cosine'][0]:g} of {int(held[COUNT])} positions"
    for prefix in ("", UNSEEN):
        found = [prefix + name in sums for name in TOGETHER]
        if any(found) and not all(found):
            lacking = [prefix + name for name, there in zip(TOGETHER, found, strict=True) if not there]
            return f"second moments without {' and '.join(lacking)}"
    return ""


def refuse_other_widths(sites: Mapping[str, Mapping[str, Array]], anatomy: Anatomy) -> None:
    """Raises BadData for sums over another number of positions than a site of the anatomy has."""
    for site in anatomy.sites:
        for name in BY_POSITION:
            array = sites.get(site.name, {}).get(name)
            if array is not None and set(array.shape) != {site.width}:
                raise BadData(
                    f"the statistics hold {name} of the shape {list(array.shape)} at the site {site.name}, which has "
                    f"{site.width} positions: measure again"
                )
