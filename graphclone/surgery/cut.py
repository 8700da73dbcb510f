"""Tells what a plan means for each axis: which positions are kept, from where, and the shapes that the clone has."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from graphclone.anatomy.flows import TABLE
from graphclone.anatomy.groups import Grouping
from graphclone.anatomy.ids import Factors, distinct
from graphclone.anatomy.parts import Ids, Site
from graphclone.anatomy.trace import Slot
from graphclone.anatomy.tracing import run
from graphclone.anatomy.vocabulary import TRIMMED
from graphclone.errors import InvalidTarget
from graphclone.feeds import tiny_feeds
from graphclone.plan import Plan

OTHER_BATCH, OTHER_LENGTH = 3, 11  # a second tiny run: sizes that differ from the first are not constants


class Cut:
    """A plan over a grouped trace of the parent."""

    def __init__(self, found: Grouping, plan: Plan) -> None:
        self.found, self.trace, self.plan = found, found.trace, plan
        self.alive = np.ones(self.trace.ids.size, bool)
        # source[c]: the class whose neuron takes the place of c's; differs from c only in a permutation
        self.source = np.arange(self.trace.ids.size)
        by_name = {g.name: g for g in found.groups}
        for name, kept in plan.keep.items():
            group = by_name.get(name)
            if group is None or max(kept) >= group.size:
                has = "is not in this parent" if group is None else f"has {group.size} neurons, not {max(kept) + 1}"
                raise InvalidTarget(f"plan: group {name} {has}")
            if group.pinned not in (None, TRIMMED) and tuple(kept) != tuple(range(group.size)):
                raise InvalidTarget(f"plan: group {name} cannot be cut: {group.pinned}")
            self.alive[group.classes] = False
            chosen = group.classes[np.asarray(kept)]
            self.alive[chosen] = True
            self.source[np.sort(chosen)] = chosen

    def size(self, factors: Factors, full: int) -> int:
        """Positions that live along an axis of ``full``."""
        return int(self.living(factors, full).sum())

    def living(self, factors: Factors, full: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which positions live."""
        alive = np.ones(full, bool)
        for factor in self.trace.ids.resolve(factors):
            alive &= self.alive[factor]
        return alive

    def take(self, factors: Factors, full: int) -> Ids | None:
        """For each position of the clone's axis the parent's position, or None where the axis stays as it is.

        Of 3 heads x 2 dimensions, heads 0 and 2 kept: positions 0, 1, 4, 5. Heads kept in the order 2, 0: 4, 5, 0, 1.
        """
        resolved = self.trace.ids.resolve(factors)
        places = np.flatnonzero(self.living(factors, full))
        if places.size == full and all((self.source[f] == f).all() for f in resolved):
            return None
        if not resolved:
            return None
        here = np.stack([f[places] for f in resolved])
        there = self.source[here]
        taken = np.empty(places.size, np.int64)
        # the k-th place with given neurons is filled by the k-th position that holds the neurons chosen for it
        taken[np.lexsort(there[::-1])] = places[np.lexsort(here[::-1])]
        return taken

    def kept(self, site: Site) -> Ids:
        """The parent's positions of a site's axis that the clone keeps, in the clone's order."""
        like = site.value if site.value in self.trace.values else None
        if like is None:  # a sum that its operator does not show: by its members
            return self._kept_members(site)
        taken = self.take(self.trace.values[like].axis(site.axis), site.width)
        return np.arange(site.width) if taken is None else taken

    def _kept_members(self, site: Site) -> Ids:
        by_name = {g.name: g for g in self.found.groups}
        factors = tuple(by_name[name].classes[members] for name, members in site.members.items())
        taken = self.take(factors, site.width)
        return np.arange(site.width) if taken is None else taken

    def takes(self, tensor: str, use: tuple[str, int]) -> dict[int, Ids]:
        """axis -> positions taken, of an initializer as one use of it sees it; axes that stay whole are left out."""
        found = {axis: self.take_slot(slot) for axis, slot in self.slots(tensor, use).items()}
        return {axis: taken for axis, taken in found.items() if taken is not None}

    def slots(self, tensor: str, use: tuple[str, int]) -> dict[int, Slot]:
        """The labelled axes of an initializer as one use of it sees it."""
        return self._slots.get((tensor, use), self._slots.get((tensor, None), {}))

    @cached_property
    def _slots(self) -> dict[tuple[str, tuple[str, int] | None], dict[int, Slot]]:
        found: dict[tuple[str, tuple[str, int] | None], dict[int, Slot]] = {}
        for slot in self.trace.slots:
            found.setdefault((slot.tensor, slot.use), {})[slot.axis] = slot
        return found

    def take_slot(self, slot: Slot) -> Ids | None:
        """``take`` for an axis of an initializer."""
        return self.take((np.arange(slot.start, slot.start + slot.size),), slot.size)

    def expected(self, name: str) -> tuple[int, ...] | None:
        """The shape a tensor of the parent has in the clone, on the tiny batch."""
        value = self.trace.values.get(name)
        if value is None:
            return None
        return tuple(self.size(f, d) for f, d in zip(value.factors, value.shape, strict=True))

    @cached_property
    def names(self) -> frozenset[str]:
        """Every tensor of the parent: a parent may be a clone itself, and hold names that surgery gave."""
        return frozenset(self.trace.model.graph.tensors())

    @cached_property
    def other(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parent's tensors on another batch and length."""
        found = run(self.trace.model, tiny_feeds(self.trace.model, OTHER_BATCH, OTHER_LENGTH), TABLE)
        return {name: value.shape for name, value in found.values.items()}

    def _each_once(self, factors: Factors, full: int) -> bool:
        """Does no other position of an axis hold the same neurons?"""
        resolved = self.trace.ids.resolve(factors)
        held = np.zeros(full, np.int64)
        for factor in resolved:
            held = held * self.trace.ids.size + factor
        return bool(resolved) and distinct(held)[0].size == full

    def varies(self, name: str, axis: int) -> bool:
        """Does the size of a tensor's axis depend on the batch?"""
        value = self.trace.values[name]
        if self._each_once(value.axis(axis), value.shape[axis]):
            return False  # of two sequences, and several tokens each, every neuron would be there more than once
        return self.other[name][axis] != self.trace.values[name].shape[axis]
