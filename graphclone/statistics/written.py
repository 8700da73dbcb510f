"""Sums the energy that each position of an inner site (feed-forward, attention) writes: its share of E|W a|^2.

A sum like all others, so that shards add up, and made of sums and weights when a run ends: planning then needs no
weights. Position i of a site with second moments S has sum_j S_ij G_ij, G = W^T W, over the positions j of its own head
(tr(W S W^T) over a head); without moments, and where there are no heads, S_ii G_ii.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphclone.anatomy.parts import Anatomy, Linear, Site
from graphclone.statistics.evidence import HEADS, Array, Evidence
from graphclone.statistics.soundness import COUNT
from graphclone.statistics.store import Statistics

NAME = "written"


def with_written(statistics: Statistics, anatomy: Anatomy, weights: Mapping[str, Array]) -> Statistics:
    """The statistics of a run with the sums added, at every inner site that a weight of floats or 8 bits reads."""
    evidence = Evidence(anatomy, statistics, weights)
    sites = {name: dict(held) for name, held in statistics.sites.items()}
    for site in anatomy.sites:
        found = written(evidence, site) if site.kind == "inner" and site.name in sites else None
        if found is not None:
            sites[site.name][NAME] = found * int(sites[site.name][COUNT])
    return replace(statistics, sites=sites)


def written(evidence: Evidence, site: Site) -> Array | None:
    """float64 [width], the mean over tokens; None where nothing is known about what reads the site."""
    if evidence.weights is None:
        return evidence.mean(site, NAME)
    total: Array | None = None
    for linear in evidence.readers(site):
        share = _share(evidence, site, linear)
        if share is not None:
            total = share if total is None else total + share
    return total


def _share(evidence: Evidence, site: Site, linear: Linear) -> Array | None:
    heads = _heads(evidence, site)
    if heads is None or not evidence.has(site, "moment"):
        squares = evidence.along(linear.weight, linear.in_axis, 2)
        known = squares is not None and squares.size == site.width
        return evidence.mean(site, "square") * squares if known else None
    moment = evidence.mean(site, "moment")
    share = np.zeros(site.width)
    for positions in heads:
        weight = evidence.columns(linear, positions).astype(np.float64)
        share[positions] = (weight.T @ weight * moment[np.ix_(positions, positions)]).sum(axis=1)
    return share


def _heads(evidence: Evidence, site: Site) -> list[Array] | None:
    """The positions of each head along a site's axis: those that agree on every group of heads. None: no heads."""
    along = [ids for name, ids in sorted(site.members.items()) if evidence.anatomy.groups[name].kind in HEADS]
    if not along:
        return None
    _, head = np.unique(np.stack(along), axis=1, return_inverse=True)
    head = np.asarray(head).reshape(-1)
    return [np.flatnonzero(head == k) for k in range(int(head.max()) + 1)]
