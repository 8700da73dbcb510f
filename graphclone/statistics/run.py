"""A run: batch after batch through the probe, its sums added up in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from operator import length_hint
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics.probe import Probe, Sums
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int | None], None]


def measure(
    model: Model,
    anatomy: Anatomy,
    batches: Iterable[Mapping[str, Array]],
    *,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Run ``batches`` through the model and sum |x| and x^2 at every writer and inner site, padding left out.

    Auxiliary inputs that a batch lacks are filled by rule (graphclone.feeds). provider: auto, cpu or cuda.
    ``progress(done, total)`` is called after each batch; total is None where ``batches`` has no length.

    Raises BadData for batches that do not fit or activations that are not finite, InvalidTarget for a provider that
    is not there or an anatomy of another model.
    """
    if anatomy.fingerprint != model.sha256:
        raise InvalidTarget(f"{model.path or 'the model'}: the anatomy is of another model (inspect this one)")
    known = feeds.inputs(model)
    probe = Probe.open(model, anatomy, provider=provider, threads=threads)
    total = length_hint(batches, -1)
    digest, done = hashlib.sha256(), 0
    sums: Sums = {}
    for number, batch in enumerate(batches, 1):
        fed = feeds.fill(known, batch, f"batch {number}")
        _add(sums, probe.run(fed, f"batch {number}"))
        for name in sorted(fed):
            digest.update(f"{name}{fed[name].dtype}{fed[name].shape}".encode())
            digest.update(np.ascontiguousarray(fed[name]).tobytes())
        done = number
        if progress is not None:
            progress(done, None if total < 0 else total)
    if not done:
        raise BadData("there is no batch to measure: the data is empty")
    return Statistics(model.sha256, sums, done, (digest.hexdigest(),), (probe.provider,))


def _add(sums: Sums, found: Sums) -> None:
    for site, held in found.items():
        into = sums.setdefault(site, {})
        for name, array in held.items():
            into[name] = into[name] + array if name in into else array
