"""How much each neuron matters: one row a way of scoring, 1-D scores per neuron group, higher is kept.

A row that needs data reads statistics of the probe; one that needs weights reads the parent's initializers; the rest
are controls that need neither.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy, NeuronGroup
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evidence:
    """What a score may look at."""

    anatomy: Anatomy
    statistics: Statistics | None
    weights: Mapping[str, Array] | None
    seed: int = 0


@dataclass(frozen=True)
class Importance:
    """A way of scoring. ``score`` gives float64 [group size], or None where nothing is known about the group.

    needs: statistics summed by the probe. select: indices kept, given scores and how many; ascending.
    """

    name: str
    formula: str
    paper: str
    score: Callable[[Evidence, NeuronGroup], Array | None]
    needs: tuple[str, ...] = ()
    needs_weights: bool = False
    select: Callable[[Array, int], Array] | None = None


def _from_sites(evidence: Evidence, group: NeuronGroup, statistic: str) -> Array | None:
    """Sum over sites of the mean statistic, each neuron the average of its positions.

    The residual stream is scored where it is written, every other group where it is read.
    """
    assert evidence.statistics is not None
    kind = "writer" if group.kind == "residual" else "inner"
    total: Array | None = None
    for site in evidence.anatomy.sites:
        if site.kind != kind or group.name not in site.members:
            continue
        if site.name not in evidence.statistics.sites:
            raise InvalidTarget(f"the statistics lack the site {site.name}: measure again")
        members = site.members[group.name]
        held = members >= 0
        mean = evidence.statistics.mean(site.name, statistic)
        sums = np.bincount(members[held], mean[held], minlength=group.size)
        positions = np.bincount(members[held], minlength=group.size)
        score = sums / np.maximum(positions, 1)
        total = score if total is None else total + score
    return total


def _absolute(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _from_sites(evidence, group, "abs")


def _energy(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _from_sites(evidence, group, "square")


def _magnitude(evidence: Evidence, group: NeuronGroup) -> Array | None:
    """Squares of the weights along every axis where the group stands; a shared tensor counts once."""
    assert evidence.weights is not None
    total = np.zeros(group.size)
    for axis in sorted(set(group.axes)):
        factors = dict(evidence.anatomy.axes.get(axis, ()))
        values = evidence.weights.get(axis.tensor)
        if group.name not in factors or values is None or values.dtype.kind not in "fV":
            continue
        rows = np.moveaxis(values, axis.axis, 0).reshape(values.shape[axis.axis], -1)
        energy = np.square(rows.astype(np.float32)).sum(axis=1, dtype=np.float64)
        members = factors[group.name]
        held = members >= 0
        total += np.bincount(members[held], energy[held], minlength=group.size)
    return np.sqrt(total)


def _first(evidence: Evidence, group: NeuronGroup) -> Array:
    return -np.arange(group.size, dtype=np.float64)


def _random(evidence: Evidence, group: NeuronGroup) -> Array:
    """Seeded by the group's name too, so that a group's draw depends on no other group."""
    return np.random.default_rng([evidence.seed, zlib.crc32(group.name.encode())]).random(group.size)


def _equal(evidence: Evidence, group: NeuronGroup) -> Array:
    return np.zeros(group.size)


def top(scores: Array, count: int) -> Array:
    """The indices of the ``count`` highest scores, ascending; of equals the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def evenly(scores: Array, count: int) -> Array:
    """``count`` indices evenly spaced, whatever the scores."""
    return np.arange(count) * scores.size // count


_SUBCLONING = "Samragh et al. 2023, arXiv 2312.09299"
_SELECTION = "Xu et al. 2024 (weight selection), arXiv 2311.18823"
_MINITRON = "Muralidharan et al. 2024 (Minitron), arXiv 2407.14679: its L2 score, squared"
_HAN = "Han et al. 2015, arXiv 1506.02626"
_MEAN = "sum over sites of E|x|, unnormalised; heads: mean over their neurons"
ROWS: tuple[Importance, ...] = (
    Importance("paper", _MEAN, _SUBCLONING, _absolute, needs=("abs",)),
    Importance("energy", "sum over sites of E[x^2]", _MINITRON, _energy, needs=("square",)),
    Importance("magnitude", "L2 norm of the neuron's weights", _HAN, _magnitude, needs_weights=True),
    Importance("first", "the first k", f"control; {_SELECTION}", _first),
    Importance("uniform", "k evenly spaced", _SELECTION, _equal, select=evenly),
    Importance("random", "drawn by a seed (random:SEED)", f"control; {_SUBCLONING}", _random),
)
TABLE: dict[str, Importance] = {row.name: row for row in ROWS}
if len(TABLE) != len(ROWS) or not all(row.paper and row.formula for row in ROWS):
    raise ValueError("an importance is listed twice, or without formula or source")


def find(name: str) -> tuple[Importance, int]:
    """The row of a name and its seed (``random:7``). Raises InvalidTarget, listing what there is."""
    base, separator, seed = name.partition(":")
    if base not in TABLE or (separator and (base != "random" or not seed.isdecimal())):
        raise InvalidTarget(f"importance {name!r} is not one of {', '.join(TABLE)} (or random:SEED)")
    return TABLE[base], int(seed or 0)


def score(
    name: str, anatomy: Anatomy, statistics: Statistics | None, weights: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Scores of every group that can be cut and that the importance knows something about: float64 [size], by name.

    Raises InvalidTarget for an unknown importance, for statistics or weights that are needed and missing, and for
    statistics of another parent.
    """
    row, seed = find(name)
    without = ", ".join(r.name for r in ROWS if not r.needs and not r.needs_weights)
    if row.needs and statistics is None:
        raise InvalidTarget(f"importance {name} needs statistics: measure first, or choose one of {without}")
    if row.needs_weights and weights is None:
        raise InvalidTarget(f"importance {name} needs the parent's weights, which were not given")
    if statistics is not None:
        statistics.refuse_other_parent(anatomy.fingerprint)
    evidence = Evidence(anatomy, statistics, weights, seed)
    cuttable = (anatomy.groups[key] for key in sorted(anatomy.groups) if anatomy.groups[key].pinned is None)
    scored = {group.name: row.score(evidence, group) for group in cuttable}
    return {key: found for key, found in scored.items() if found is not None}


def select(name: str, scores: Array, count: int) -> Array:
    """The ``count`` indices that an importance keeps, ascending.

    >>> select("paper", np.array([0.1, 3.0, 2.0, 3.0]), 2).tolist(), select("uniform", np.zeros(6), 3).tolist()
    ([1, 3], [0, 2, 4])
    """
    row, _ = find(name)
    return (row.select or top)(scores, count)
