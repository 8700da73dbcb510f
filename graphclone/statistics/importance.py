"""Scores how much each neuron matters: one row a way, 1-D scores per neuron group, the highest are kept.

A row that needs data reads statistics of the probe; one that needs weights reads the parent's initializers; the rest
are controls that need neither.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphclone.anatomy.parts import Anatomy, Linear, NeuronGroup, Site
from graphclone.errors import InvalidTarget
from graphclone.statistics.depth import MEASURE
from graphclone.statistics.evidence import Array, Evidence, gathered
from graphclone.statistics.store import Statistics
from graphclone.statistics.written import written


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


def _measured(evidence: Evidence, group: NeuronGroup, value: Callable[[Site], Array], *kinds: str) -> Array | None:
    """Sum over the group's sites of a value by position, each neuron the mean of its positions."""
    total: Array | None = None
    for site in evidence.sites(group, *kinds):
        found = gathered(value(site), site.members[group.name], group.size, mean=True)
        total = found if total is None else total + found
    return total


def _written(group: NeuronGroup) -> str:
    """The residual stream is scored where it is written, every other group where it is read."""
    return "writer" if group.kind == "residual" else "inner"


def _read(group: NeuronGroup) -> tuple[str, ...]:
    """Both where they are read: the residual stream behind its norms, at its writers where it has none."""
    return ("norm", "writer") if group.kind == "residual" else ("inner",)


def _absolute(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _measured(evidence, group, lambda site: evidence.mean(site, "abs"), _written(group))


def _energy(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _measured(evidence, group, lambda site: evidence.mean(site, "square"), _written(group))


def _variance_at(evidence: Evidence, site: Site) -> Array:
    spread = evidence.mean(site, "square") - np.square(evidence.mean(site, "sum"))
    return np.asarray(np.maximum(spread, 0.0))  # rounding may take it below


def _variance(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _measured(evidence, group, lambda site: _variance_at(evidence, site), _written(group))


def _l2(evidence: Evidence, group: NeuronGroup) -> Array | None:
    total: Array | None = None
    for site in evidence.sites(group, *_read(group)):
        square = gathered(evidence.mean(site, "square"), site.members[group.name], group.size, mean=True)
        total = np.sqrt(square) if total is None else total + np.sqrt(square)
    return total


def _with_readers(evidence: Evidence, group: NeuronGroup, value: Callable[[Site], Array], power: int) -> Array | None:
    """Sum over products of what they read times the |w|^power they read it with."""
    total: Array | None = None
    if group.kind == "residual":
        pairs = _stream_readers(evidence, group, value)
    else:
        pairs = (
            (value(site), site.members[group.name], linear)
            for site in evidence.sites(group, "inner")
            for linear in evidence.readers(site)
        )
    for found, members, linear in pairs:
        weight = evidence.along(linear.weight, linear.in_axis, power)
        if weight is None or weight.size != found.size:
            continue
        score = gathered(found * weight, members, group.size, mean=True)
        total = score if total is None else total + score
    return total


def _stream_readers(
    evidence: Evidence, group: NeuronGroup, value: Callable[[Site], Array]
) -> Iterator[tuple[Array, Array, Linear]]:
    """What each product that reads the stream reads, by position of its weight: a block's products share its norms."""
    by_block: dict[tuple[int, int | None], list[Array]] = {}
    for site in evidence.sites(group, *_read(group)):
        by_neuron = gathered(value(site), site.members[group.name], group.size, mean=True)
        by_block.setdefault((evidence.stack_of(site), site.block), []).append(by_neuron)
    for (stack, block), values in by_block.items():
        mean = np.mean(values, axis=0)
        for linear in evidence.readers_in(block, stack, group):
            members = evidence.members(linear, group)
            if members is not None:
                yield np.where(members >= 0, mean[members], 0.0), members, linear


def _wanda(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _with_readers(evidence, group, lambda site: np.sqrt(evidence.mean(site, "square")), 1)


def _fluctuation(evidence: Evidence, group: NeuronGroup) -> Array | None:
    return _with_readers(evidence, group, lambda site: _variance_at(evidence, site), 2)


def _equal_vote(evidence: Evidence, group: NeuronGroup) -> Array | None:
    if group.kind == "residual":
        sites = evidence.sites(group, *_read(group))
        found = _measured(evidence, group, lambda site: evidence.mean(site, "square"), *_read(group))
        return None if found is None else found / len(sites)
    total: Array | None = None
    for site in evidence.sites(group, "inner"):
        share = written(evidence, site)
        if share is not None:
            score = gathered(share, site.members[group.name], group.size, mean=False)
            total = score if total is None else total + score
    return total


def _magnitude(evidence: Evidence, group: NeuronGroup) -> Array | None:
    """Squares of the weights along every axis where the group stands; a shared tensor counts once."""
    total = np.zeros(group.size)
    for axis in sorted(set(group.axes)):
        members = dict(evidence.anatomy.axes.get(axis, ())).get(group.name)
        if members is None:
            continue
        energy = evidence.along(axis.tensor, axis.axis, 2)
        if energy is not None:
            total += gathered(energy, members, group.size, mean=False)
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
_MINITRON = "Muralidharan et al. 2024 (Minitron), arXiv 2407.14679"
_HAN = "Han et al. 2015, arXiv 1506.02626"
_WANDA = "Sun et al. 2023 (Wanda), arXiv 2306.11695, summed over the weights of a neuron"
_FLAP = "An et al. 2023 (FLAP), arXiv 2312.11983"
_MEAN = "sum over writers of E|x|, unnormalised; inside blocks E|a|; heads: mean over their neurons"
_VOTE = "stream: mean over norms of E[u^2]; inside blocks E[a_i^2]|W_i|^2; heads: tr(W S W^T) with second moments"
# statistics that several rows read: what the probe sums at writer, inner and norm sites
_SQUARE, _SPREAD = ("square",), ("sum", "square")
ROWS: tuple[Importance, ...] = (
    Importance("paper", _MEAN, _SUBCLONING, _absolute, needs=("abs",)),
    Importance("equal-vote", _VOTE, "graphclone: every norm has one vote", _equal_vote, _SQUARE),
    Importance("l2", "sum over norms, or inner sites, of sqrt(E[x^2])", f"{_MINITRON}: L2, mean", _l2, _SQUARE),
    Importance("energy", "sum over writers, or inner sites, of E[x^2]", f"{_MINITRON}: L2, squared", _energy, _SQUARE),
    Importance("variance", "sum over writers, or inner sites, of Var[x]", f"{_FLAP}: no weights", _variance, _SPREAD),
    Importance("wanda", "sqrt(E[x_i^2]) sum_j |W_ji| over what reads it", _WANDA, _wanda, _SQUARE, needs_weights=True),
    Importance("fluctuation", "Var[x_i] |W_i|^2 over what reads it", _FLAP, _fluctuation, _SPREAD, needs_weights=True),
    Importance("magnitude", "L2 norm of the neuron's weights", _HAN, _magnitude, needs_weights=True),
    Importance("first", "the first k", f"control; {_SELECTION}", _first),
    Importance("uniform", "k evenly spaced", _SELECTION, _equal, select=evenly),
    Importance("random", "drawn by a seed (random:SEED)", f"control; {_SUBCLONING}", _random),
)
TABLE: dict[str, Importance] = {row.name: row for row in ROWS}
if len(TABLE) != len(ROWS) or not all(row.paper and row.formula for row in ROWS):
    raise ValueError("an importance is listed twice, or without formula or source")


SEED_DIGITS = 100  # Python reads no number of thousands


def find(name: str) -> tuple[Importance, int]:
    """The row of a name and its seed (``random:7``). Raises InvalidTarget, listing what there is."""
    base, separator, seed = name.partition(":")
    if base not in TABLE or (separator and (base != "random" or not seed.isdecimal() or len(seed) > SEED_DIGITS)):
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
    if row.needs and statistics is None:
        without = ", ".join(r.name for r in ROWS if not r.needs)
        raise InvalidTarget(f"importance {name} {MEASURE}, or choose one that needs none: {without}")
    if row.needs_weights and weights is None:
        raise InvalidTarget(f"importance {name} needs the parent's weights, which were not given")
    if statistics is not None:
        statistics.refuse_unfit(anatomy)
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
