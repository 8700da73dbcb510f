"""A copy of the graph that reduces its activations where they arise, run by ONNX Runtime.

Per place and statistic one vector (or moment) leaves the runtime, so memory does not grow with the data. The copy's own
outputs are removed: what no statistic depends on (the language head, for one) does not run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.statistics import moments as second
from graphclone.statistics.places import first_pass, lay_out
from graphclone.statistics.reductions import Place, Reduced, reduce_places
from graphclone.statistics.runtime import Session, open_session
from graphclone.statistics.runtime import provider as chosen_provider
from graphclone.statistics.store import COUNT

Array = np.ndarray[Any, Any]
Sums = dict[str, dict[str, Array]]
MOMENT = "moment"
UNSEEN = "unseen_"  # of batches that are set apart
APART = (MOMENT, "sum", COUNT)
Key = tuple[str, str, int]  # place, statistic, tile


@dataclass
class Probe:
    """An open probe and what it has summed so far. ``guarded`` is its twin that survives padding that is not a number,
    opened when first needed."""

    model: Model
    places: tuple[Place, ...]
    provider: str
    threads: int | None
    reduced: Reduced
    session: Session
    guarded: Session | None = None
    held: dict[Key, Array] = field(default_factory=dict)
    judged: frozenset[str] = frozenset()  # places where batches set apart are summed once more

    @classmethod
    def open(
        cls,
        model: Model,
        anatomy: Anatomy,
        *,
        provider: str = "auto",
        threads: int | None = None,
        mask: str | None = None,
        moments: Collection[str] = (),
    ) -> Probe:
        """The first pass over every site and block; ``moments``: sites with second moments. See ``run.measure``."""
        return cls.at(model, first_pass(anatomy, moments), provider=provider, threads=threads, mask=mask)

    @classmethod
    def at(
        cls,
        model: Model,
        places: Sequence[Place],
        *,
        provider: str = "auto",
        threads: int | None = None,
        mask: str | None = None,
        judged: Collection[str] = (),
    ) -> Probe:
        """Build the probe of some places and load it."""
        runs_on = chosen_provider(provider)
        laid_out = lay_out(model, places, mask)
        reduced = reduce_places(model, laid_out)
        session = open_session(reduced.model, runs_on, threads)
        made = cls(model, tuple(laid_out), runs_on, threads, reduced, session)
        made.judged = frozenset(judged)
        return made

    def add(self, fed: Mapping[str, Array], where: str, *, unseen: bool = False) -> None:
        """Add a batch; ``unseen``: one that is set apart too (statistics.apart). Raises BadData, the sums as before,
        where activations are not finite."""
        found = dict(zip(self.reduced.outputs, self._finite(fed, where), strict=True))
        apart = {(p, UNSEEN + s, t): found[p, s, t] for p, s, t in found if s in APART and p in self.judged}
        for key, array in found.items():
            self._add(key, array)
        for key, array in apart.items():
            self._add(key, np.atleast_1d(array) if unseen else np.zeros_like(np.atleast_1d(array)))

    def _add(self, key: Key, array: Array) -> None:
        if key in self.held:
            self.held[key] += array
        else:
            self.held[key] = array.astype(np.int64 if key[1] == COUNT else np.float64)

    def sums(self) -> Sums:
        """All sums so far, float64, by place and statistic; counts int64."""
        found: Sums = {}
        tiles: dict[tuple[str, str], list[Array]] = {}
        for (place, statistic, _), array in self.held.items():
            if statistic.endswith(MOMENT):
                tiles.setdefault((place, statistic), []).append(array)
            else:
                found.setdefault(place, {})[statistic] = array.copy()
        for (place, statistic), made in tiles.items():
            found[place][statistic] = second.matrix(made)
        return found

    def start(self, sums: Sums) -> None:
        """Go on from sums of earlier batches, or from nothing."""
        self.held = {}
        outputs = self.reduced.outputs
        apart = [(p, UNSEEN + s, t) for p, s, t in outputs if s in APART and p in self.judged]
        for place, statistic, tile in [*outputs, *apart] if sums else ():
            whole = sums[place][statistic]
            held = second.tiles(whole)[tile] if statistic.endswith(MOMENT) else np.array(whole)
            self.held[place, statistic, tile] = held

    def run(self, fed: Mapping[str, Array], where: str) -> Sums:
        """Sums of one batch alone."""
        before, self.held = self.held, {}
        try:
            self.add(fed, where)
            return self.sums()
        finally:
            self.held = before

    def _finite(self, fed: Mapping[str, Array], where: str) -> list[Array]:
        found = self.session.run(fed, where)
        if self._not_finite(found) and self._padded(fed):
            # a row of padding may attend to nothing and be NaN, which a product with 0 does not remove
            self.guarded = self.guarded or open_session(
                reduce_places(self.model, self.places, guard=True).model, self.provider, self.threads
            )
            found = self.guarded.run(fed, where)
        broken = self._not_finite(found)
        if broken:
            raise BadData(f"{where}: the activations at {broken} are not finite (NaN or infinite): is the input sound?")
        return found

    def _not_finite(self, found: Sequence[Array]) -> str | None:
        keys = self.reduced.outputs
        return next((k[0] for k, array in zip(keys, found, strict=True) if not np.isfinite(array).all()), None)

    def _padded(self, fed: Mapping[str, Array]) -> bool:
        masks = {layout.mask for place in self.places for layout in place.layouts if layout.mask}
        return any(not fed[mask].all() for mask in masks)
