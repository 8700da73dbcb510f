"""A copy of the graph that reduces its activations where they arise, run by ONNX Runtime.

Per place and statistic one vector (or moment) leaves the runtime, so memory does not grow with the data. The copy's own
outputs are removed: what no statistic depends on (the language head, for one) does not run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.statistics import adders, widening
from graphclone.statistics import moments as second
from graphclone.statistics.adders import Adder, Device, Host, Pieces
from graphclone.statistics.assembly import Care, Reduced, reduce_places
from graphclone.statistics.moments import MOMENT, MOMENT_COUNT, MOMENT_SUM
from graphclone.statistics.places import first_pass, lay_out
from graphclone.statistics.reductions import Place
from graphclone.statistics.runtime import PROVIDERS, Session
from graphclone.statistics.runtime import provider as chosen_provider
from graphclone.statistics.soundness import COUNT, UNSEEN

Array = np.ndarray[Any, Any]
Sums = dict[str, dict[str, Array]]
APART = (MOMENT, MOMENT_SUM, MOMENT_COUNT)


@dataclass
class Probe:
    """An open probe and what it has summed so far.

    judged: places where batches set apart are summed once more. care: how its session treats what is not a number; it
    grows where a batch asks for it.
    """

    model: Model
    places: tuple[Place, ...]
    provider: str
    threads: int | None
    reduced: Reduced
    adder: Adder
    session: Session
    judged: frozenset[str] = frozenset()
    care: Care = Care.EXPORTED

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
        on_device: bool | None = None,
    ) -> Probe:
        """Build the probe of some places and load it. on_device: whether sums stay where the graph runs (default: on
        a GPU)."""
        runs_on = chosen_provider(provider)
        if runs_on == PROVIDERS["cpu"] and widening.needed(model):
            model = widening.widened(model)
        laid_out = lay_out(model, places, mask, runs_on)
        reduced = reduce_places(model, laid_out, Care.TRUSTING)
        if on_device is None:
            on_device = runs_on != PROVIDERS["cpu"]
        adder: Adder = Device(reduced, bool(judged), runs_on) if on_device else Host(reduced, bool(judged))
        session = adder.open(reduced, runs_on, threads)
        return cls(model, tuple(laid_out), runs_on, threads, reduced, adder, session, frozenset(judged), reduced.care)

    @property
    def providers(self) -> tuple[str, ...]:
        """Where nodes run: what was asked for, and the CPU too where a GPU leaves shapes to it."""
        return tuple(self.session.placement) or (self.provider,)

    def add(self, fed: Mapping[str, Array], where: str, *, unseen: bool = False) -> None:
        """Add a batch; ``unseen``: one that is set apart too. Raises BadData, the sums as before, where activations are
        not finite."""
        broken = self.adder.add(self.session, fed, where, unseen=unseen)
        # a row of padding may attend to nothing and be NaN, which a product with 0 does not remove
        while broken is not None and self.care < (Care.GUARDED if self._padded(fed) else Care.EXPORTED):
            self.care = Care(self.care + 1)  # and stays: the next batches are like this one
            self.session = self.adder.open(
                reduce_places(self.model, self.places, self.care), self.provider, self.threads
            )
            broken = self.adder.add(self.session, fed, where, unseen=unseen)
        if broken is not None:
            site = self._broken(broken)
            raise BadData(f"{where}: the activations at {site} are not finite (NaN or infinite): is the input sound?")

    def sums(self) -> Sums:
        """All sums so far, float64, by place and statistic; counts int64."""
        pieces = self.adder.pieces()
        if not pieces:
            return {}
        found = self._unpacked(pieces, "")
        if self.judged:
            for place, held in self._unpacked(pieces, adders.UNSEEN).items():
                if place in self.judged:
                    found[place] |= {UNSEEN + name: held[name] for name in APART if name in held}
        return found

    def _unpacked(self, pieces: Pieces, prefix: str) -> Sums:
        sizes = self.reduced.sizes
        whole = {n: pieces.get(prefix + n, np.zeros(s, pieces[n].dtype)) for n, s in sizes.items()}
        found: Sums = {place: {} for place in self.reduced.counts}
        start = 0
        for place, statistic, size in self.reduced.vectors:
            found[place][statistic] = whole["vectors"][start : start + size].copy()
            start += size
        tiles: dict[str, list[Array]] = {}
        for number, (place, _, _) in enumerate(self.reduced.tiles):
            tiles.setdefault(place, []).append(whole[f"tile.{number}"])
        widths = {place.name: place.across for place in self.places}
        for place, made in tiles.items():
            found[place][MOMENT] = second.matrix(made, widths[place])
        for place, count in zip(self.reduced.counts, whole["counts"], strict=True):
            found[place][COUNT] = np.asarray(count)
        return found

    def start(self, sums: Sums) -> None:
        """Go on from sums of earlier batches, or from nothing."""
        pieces = self._packed(sums, "") if sums else {}
        if sums and self.judged:
            unseen = self._packed(sums, UNSEEN)
            pieces |= {adders.UNSEEN + name: array for name, array in unseen.items()}
        self.adder.load(pieces)

    def _packed(self, sums: Sums, prefix: str) -> Pieces:
        """The pieces of sums; what was not kept of a place is 0."""
        parts = [sums[p].get(prefix + name, np.zeros(size)) for p, name, size in self.reduced.vectors]
        counts = [sums[place].get(prefix + COUNT, np.zeros(1)) for place in self.reduced.counts]
        pieces: Pieces = {"counts": np.array([int(np.ravel(count)[0]) for count in counts], np.int64)}
        if parts:
            pieces["vectors"] = np.concatenate(parts)
        numbers: dict[str, int] = {}
        cut: dict[str, list[Array]] = {}
        for number, (place, name, shape) in enumerate(self.reduced.tiles):
            if place not in cut:
                whole = sums[place].get(prefix + name)
                cut[place] = second.tiles(whole) if whole is not None else []
            nth = numbers.setdefault(place, 0)
            pieces[f"tile.{number}"] = cut[place][nth] if cut[place] else np.zeros(shape)
            numbers[place] += 1
        return pieces

    def run(self, fed: Mapping[str, Array], where: str) -> Sums:
        """Sums of one batch alone."""
        before = self.adder.pieces()
        self.adder.load({})
        try:
            self.add(fed, where)
            return self.sums()
        finally:
            self.adder.load(before)

    def _broken(self, vectors: Array) -> str:
        """The first place whose vectors are not finite."""
        start = 0
        for place, _, size in self.reduced.vectors:
            if not np.isfinite(vectors[start : start + size]).all():
                return place
            start += size
        return "a site of second moments"

    def _padded(self, fed: Mapping[str, Array]) -> bool:
        masks = {layout.mask for place in self.places for layout in place.layouts if layout.mask}
        return any(not fed[mask].all() for mask in masks)
