"""Runs a measurement: batch after batch through the probe, its sums added up in float64, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import length_hint
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics import moments as second
from graphclone.statistics.calibration import Source
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.kept import passes as passes_after
from graphclone.statistics.places import Keeping, first_pass, moments_alone
from graphclone.statistics.prefetch import prefetched
from graphclone.statistics.probe import Probe
from graphclone.statistics.reductions import Place
from graphclone.statistics.store import Statistics
from graphclone.statistics.tally import Summing, Tally
from graphclone.statistics.written import with_written
from graphclone.version import __version__

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]
# one batch in so many is set apart where second moments are measured: it counts like all others, and its sums are kept
# once more (``unseen_moment``, with its sum and count), so that a fit can be judged on what it has not seen
APART_EVERY = 5


def measure(
    model: Model,
    anatomy: Anatomy,
    batches: Iterable[Mapping[str, Array]],
    *,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    mask: str | None = None,
    moments: bool = False,
) -> Statistics:
    """Run ``batches`` through the model and sum what they do at every site and block, padding left out.

    Auxiliary inputs that a batch lacks are filled by rule (graphclone.feeds). provider: auto, cpu or cuda.
    ``progress(done, total)`` is called after each batch; total is None where nobody knows it. For text it is a
    guess until so many are done, None beyond, and in the end what it was.
    ``checkpoint``: what is kept of a run that ends early, and gone on with. mask: the input that says which positions
    count; by default each value's own attention mask. moments: second moments at the inner sites; where they are large
    the data is read several times, some sites a time.

    Raises BadData for batches that do not fit or activations that are not finite, InvalidTarget for a provider that
    is not there, a mask that is none, or an anatomy of another model.
    """
    run = Run(model, anatomy, provider, threads, mask, moments)
    return run.measure(batches, progress=progress, checkpoint=checkpoint)


@dataclass
class Run:
    """``measure`` for several sources: the session stays open between them, where one pass is enough."""

    model: Model
    anatomy: Anatomy
    provider: str = "auto"
    threads: int | None = None
    mask: str | None = None
    moments: bool = False
    _probe: Probe | None = None

    def measure(
        self,
        batches: Iterable[Mapping[str, Array]],
        *,
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Statistics:
        """The statistics of one source. See ``measure``."""
        refuse_other(self.model, self.anatomy)
        settings: dict[str, str | int | bool] = {"mask": self.mask or "", "moments": self.moments}
        places = self.passes()
        passes = len(places)
        refuse_once_only(batches, passes)
        found: Statistics | None = None
        for number, wanted in enumerate(places):
            probe = self.opened(wanted, keep=passes == 1)
            keep = checkpoint if checkpoint is None or not number else checkpoint.another(number)
            shown = _of_passes(progress, number, passes)
            made = accumulate(probe, self.model, batches, settings=settings, progress=shown, checkpoint=keep)
            if keep is not None and passes > 1:
                keep.write(made)
            found = made if found is None else _joined(found, made)
        assert found is not None
        for number in range(1, passes):
            if checkpoint is not None:
                checkpoint.another(number).remove()
        return with_written(found, self.anatomy, self.model.constants())

    def passes(self) -> list[Sequence[Place]]:
        """What is summed each time that the data is read."""
        inner = [site for site in self.anatomy.sites if site.kind == "inner"]
        first, *rest = second.groups({site.name: site.width for site in inner if self.moments}) or [[]]
        return [first_pass(self.anatomy, first), *(moments_alone(self.anatomy, group) for group in rest)]

    def opened(self, places: Sequence[Place], *, keep: bool = False) -> Probe:
        """A probe of some places without any sums, or (``keep``) the one that is kept between sources."""
        probe = self._probe or Probe.at(
            self.model,
            places,
            provider=self.provider,
            threads=self.threads,
            mask=self.mask,
            judged=[site.name for site in self.anatomy.sites if self.moments and site.kind == "inner"],
        )
        probe.start({})
        self._probe = probe if keep else None
        return probe


def measure_kept(
    model: Model,
    anatomy: Anatomy,
    plan: Keeping,
    batches: Iterable[Mapping[str, Array]],
    *,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    mask: str | None = None,
) -> Statistics:
    """The second pass, which knows what is kept: at each norm over a residual stream that the plan cuts, sums over the
    kept neurons, in the plan's order, of what the norm makes of them before gain and bias: ``n`` normalised with all
    neurons as in the parent, ``k`` among themselves as in the clone, ``n_square``, ``k_square`` and ``nk``.

    And the second moments that passes of the plan's method take (statistics/kept.py), for which the data may be read
    several times. Norms of blocks that the plan removes are left out. Options and errors as for ``measure``;
    InvalidTarget too where the plan leaves nothing to correct.
    """
    refuse_other(model, anatomy)
    kept = hashlib.sha256(repr((sorted(plan.keep.items()), sorted(plan.drop_blocks.items()))).encode()).hexdigest()
    settings: dict[str, str | int | bool] = {"mask": mask or "", "kept": kept}
    several = passes_after(anatomy, plan)
    refuse_once_only(batches, len(several))
    found: Statistics | None = None
    for number, places in enumerate(several):
        judged = [place.name for place in places if place.moment]
        probe = Probe.at(model, places, provider=provider, threads=threads, mask=mask, judged=judged)
        shown = _of_passes(progress, number, len(several))
        made = accumulate(probe, model, batches, settings=settings, progress=shown)
        found = made if found is None else _joined(found, made)
    assert found is not None
    return found


def refuse_once_only(batches: Iterable[Mapping[str, Array]], passes: int) -> None:
    """Raises BadData for data that can be read once where it has to be read oftener."""
    if passes > 1 and isinstance(batches, Iterator):
        raise BadData(f"second moments of this model need the data {passes} times: give it as a list or a source")


def refuse_other(model: Model, anatomy: Anatomy) -> None:
    """Raises InvalidTarget for an anatomy of another model."""
    if anatomy.fingerprint != model.sha256:
        raise InvalidTarget(f"{model.path or 'the model'}: the anatomy is of another model (inspect this one)")


def _of_passes(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """Progress of one pass as progress of all."""
    if progress is None or passes == 1:
        return progress

    last = 0

    def shown(done: int, total: int | None) -> None:
        nonlocal last
        if total or last:
            last = max(total or last, done)  # where a guess was passed, the other passes are as long at least
        progress(done + number * last, None if total is None else total * passes)

    return shown


def _joined(one: Statistics, other: Statistics) -> Statistics:
    """Sums of the same data over different sites. Raises BadData where it was not the same data."""
    if one.data != other.data:
        raise BadData("the data was not the same when it was read again, which second moments need: give it as files")
    sites = {name: dict(held) for name, held in one.sites.items()}
    for name, held in other.sites.items():
        sites.setdefault(name, {}).update(held)
    return replace(one, sites=sites)


def accumulate(
    probe: Summing,
    model: Model,
    batches: Iterable[Mapping[str, Array]],
    *,
    settings: Mapping[str, str | int | bool],
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Statistics:
    """The sums of all batches. settings: whatever must be equal for two such sums to add up."""
    settings = {"graphclone": __version__, **settings}
    known = feeds.inputs(model)
    tally = Tally(model.sha256, probe, settings, batches if isinstance(batches, Source) else None)
    if checkpoint is not None:
        tally.go_on(checkpoint.held(model.sha256, settings))
    total = length_hint(batches, -1)
    guessed = isinstance(batches, Source) and batches.batches is None
    try:
        with prefetched(tally.remaining(batches, known)) as stream:
            for batch in stream:
                where = f"batch {tally.number}"
                fed = feeds.fill(known, batch, where)
                probe.add(fed, where, unseen=tally.number % APART_EVERY == 0)
                tally.add(fed)
                if checkpoint is not None and checkpoint.due(tally.done):
                    checkpoint.write(tally.statistics())
                if progress is not None:
                    progress(tally.done, total if tally.done < total + (not guessed) else None)
    except BaseException as reason:
        if checkpoint is None or not tally.keep(checkpoint) or not isinstance(reason, GraphCloneError):
            raise
        kept = f"the {tally.done} batches before are kept in {checkpoint.path}, --resume goes on from there"
        raise type(reason)(f"{reason} ({kept})") from None
    if not tally.done:
        raise BadData(tally.nothing())
    if progress is not None and total >= 0 and (guessed or total != tally.done):
        progress(tally.done, tally.done)  # now it is known
    made = tally.statistics()
    made.refuse_uncounted()
    return made
