"""A run: batch after batch through the probe, its sums added up in float64, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from operator import length_hint
from typing import Any, Protocol

import numpy as np

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics import moments as second
from graphclone.statistics.calibration import Source
from graphclone.statistics.checkpoint import Checkpoint
from graphclone.statistics.places import Keeping, first_pass, moments_alone, second_pass
from graphclone.statistics.portion import Portion
from graphclone.statistics.prefetch import prefetched
from graphclone.statistics.probe import Probe, Sums
from graphclone.statistics.store import Statistics
from graphclone.version import __version__

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]


class Summing(Protocol):
    """What sums batches up: statistics.probe.Probe, and whatever else measures so."""

    provider: str

    def add(self, fed: Mapping[str, Array], where: str) -> None:
        """Add a batch; where it raises, the sums are as before."""

    def sums(self) -> Sums:
        """All sums so far, float64, by site and statistic."""

    def start(self, sums: Sums) -> None:
        """Go on from sums of earlier batches."""


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
    ``progress(done, total)`` is called after each batch; total is None where nobody knows it, and a guess for text.
    ``checkpoint``: what is kept of a run that ends early, and gone on with. mask: the input that says which positions
    count; by default each value's own attention mask. moments: second moments at the inner sites; where they are large
    the data is read several times, some sites a time.

    Raises BadData for batches that do not fit or activations that are not finite, InvalidTarget for a provider that
    is not there, a mask that is none, or an anatomy of another model.
    """
    refuse_other(model, anatomy)
    settings: dict[str, str | int | bool] = {"mask": mask or "", "moments": moments}
    widths = {site.name: site.width for site in anatomy.sites if site.kind == "inner"} if moments else {}
    first, *rest = second.groups(widths) or [[]]
    passes = 1 + len(rest)
    if rest and isinstance(batches, Iterator):
        raise BadData(f"second moments of this model need the data {passes} times: give it as a list or a source")
    places = [first_pass(anatomy, first), *(moments_alone(anatomy, group) for group in rest)]
    found: Statistics | None = None
    for number, wanted in enumerate(places):
        probe = Probe.at(model, wanted, provider=provider, threads=threads, mask=mask)
        keep = _of_pass(checkpoint, number)
        shown = _of_passes(progress, number, passes)
        made = accumulate(probe, model, batches, settings=settings, progress=shown, checkpoint=keep)
        if keep is not None and rest:
            keep.write(made)
        found = made if found is None else _joined(found, made)
    assert found is not None
    for number in range(1, passes):
        if done := _of_pass(checkpoint, number):
            done.remove()
    return found


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

    Norms of blocks that the plan removes are left out. Options and errors as for ``measure``; InvalidTarget too where
    the plan keeps every residual stream whole.
    """
    refuse_other(model, anatomy)
    probe = Probe.at(model, second_pass(anatomy, plan), provider=provider, threads=threads, mask=mask)
    kept = hashlib.sha256(repr((sorted(plan.keep.items()), sorted(plan.drop_blocks.items()))).encode()).hexdigest()
    return accumulate(probe, model, batches, settings={"mask": mask or "", "kept": kept}, progress=progress)


def refuse_other(model: Model, anatomy: Anatomy) -> None:
    """Raises InvalidTarget for an anatomy of another model."""
    if anatomy.fingerprint != model.sha256:
        raise InvalidTarget(f"{model.path or 'the model'}: the anatomy is of another model (inspect this one)")


def _of_pass(checkpoint: Checkpoint | None, number: int) -> Checkpoint | None:
    """Each pass over the data has a checkpoint of its own, beside the first."""
    if checkpoint is None or not number:
        return checkpoint
    return Checkpoint(
        checkpoint.path.with_name(f"{checkpoint.path.name}.{number}"), checkpoint.every, checkpoint.resume
    )


def _of_passes(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """Progress of one pass as progress of all."""
    if progress is None or passes == 1:
        return progress

    def shown(done: int, total: int | None) -> None:
        progress(done + number * (total or 0), None if total is None else total * passes)

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
    tally = _Tally(model.sha256, probe, settings, batches if isinstance(batches, Source) else None)
    if checkpoint is not None:
        tally.go_on(checkpoint.held(model.sha256, settings))
    total = length_hint(batches, -1)
    try:
        with prefetched(tally.remaining(batches, known)) as stream:
            for batch in stream:
                where = f"batch {tally.number}"
                fed = feeds.fill(known, batch, where)
                probe.add(fed, where)
                tally.add(fed)
                if checkpoint is not None and checkpoint.due(tally.done):
                    checkpoint.write(tally.statistics())
                if progress is not None:
                    progress(tally.done, None if total < 0 else max(total, tally.done))
    except BaseException as reason:
        if checkpoint is None or not tally.keep(checkpoint) or not isinstance(reason, GraphCloneError):
            raise
        kept = f"the {tally.done} batches before are kept in {checkpoint.path}, --resume goes on from there"
        raise type(reason)(f"{reason} ({kept})") from None
    if not tally.done:
        raise BadData(tally.nothing())
    if progress is not None and total not in (-1, tally.done):
        progress(tally.done, tally.done)  # the number of batches was a guess
    return tally.statistics()


@dataclass
class _Tally:
    """What a run has so far. ``fed``: sha256 of (``fed`` before, one batch), batch after batch."""

    parent: str
    probe: Summing
    settings: Mapping[str, str | int | bool]
    source: Source | None
    done: int = 0
    fed: str = ""
    providers: tuple[str, ...] = ()
    before: Portion | None = None

    @property
    def number(self) -> int:
        """Of the next batch in the source, from 1."""
        return self.done + 1 if self.source is None else self.source.shard + self.done * self.source.shards

    def go_on(self, held: Statistics | None) -> None:
        """Start with what an earlier run has. Raises BadData where it took another shard."""
        if held is None:
            return
        (self.before,) = held.data
        asked = (1, 1) if self.source is None else (self.source.shard, self.source.shards)
        if (self.before.shard, self.before.shards) != asked:
            raise BadData(
                f"the run to go on with took shard {self.before.shard}/{self.before.shards}, this one is to take "
                f"{asked[0]}/{asked[1]}"
            )
        self.probe.start({site: dict(sums) for site, sums in held.sites.items()})
        self.done, self.fed, self.providers = held.batches, self.before.fed, held.providers

    def remaining(self, batches: Iterable[Mapping[str, Array]], known: Mapping[str, feeds.Input]) -> Iterator[Any]:
        """The batches after those that an earlier run has, which have to be the same. Raises BadData."""
        before, source = self.before, self.source
        if before is None:
            yield from batches
            return
        if source is not None and source.jumps and source.fingerprint == before.source:
            yield from source.after(before.batches)
            return
        fed, stream = "", iter(batches)
        for batch in islice(stream, before.batches):
            fed = _chained(fed, feeds.fill(known, batch))
        if fed != before.fed:
            now = source.description if source is not None else "the data"
            raise BadData(
                f"{now}: its first {before.batches} batches are not those that the run to go on with was fed ({before})"
            )
        yield from stream

    def add(self, fed: Mapping[str, Array]) -> None:
        self.fed = _chained(self.fed, fed)
        self.done += 1

    def statistics(self) -> Statistics:
        source = self.source
        portion = Portion(
            source=(source.fingerprint if source is not None else "") or self.fed,
            shards=source.shards if source is not None else 1,
            shard=source.shard if source is not None else 1,
            batches=self.done,
            fed=self.fed,
            described=source.description if source is not None else "",
        )
        providers = tuple(sorted({*self.providers, self.probe.provider}))
        return Statistics(self.parent, self.probe.sums(), self.done, (portion,), providers, self.settings)

    def keep(self, checkpoint: Checkpoint) -> bool:
        """Write what is not on disk yet; whether there is anything on disk."""
        if self.done > checkpoint.batches:
            with suppress(GraphCloneError):  # what ended the run is worth more than why it cannot be kept
                checkpoint.write(self.statistics())
        return checkpoint.batches > 0

    def nothing(self) -> str:
        """Why there is no batch."""
        if self.source is None or self.source.shards == 1:
            return "there is no batch to measure: the data is empty"
        return f"{self.source.description}: shard {self.source.shard}/{self.source.shards} has no batch in it"


def _chained(before: str, fed: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(before.encode())
    for name in sorted(fed):
        digest.update(f"{name}{fed[name].dtype}{fed[name].shape}".encode())
        digest.update(np.ascontiguousarray(fed[name]).tobytes())
    return digest.hexdigest()
