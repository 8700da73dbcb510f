"""Finds the products that read a norm's output, and the gain and bias of that norm before and after the cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphclone.anatomy.parts import Norm
from graphclone.anatomy.projections import Projection
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.norm_gain import source
from graphclone.surgery.corrections.paper import OUTPUT

STEPS = 6  # casts and moves between a norm and a product
PASSED = ("Cast", "Identity", "Reshape", "Dropout")


@dataclass(frozen=True)
class Affine:
    """gain * normalised + bias, the parent's over all neurons, then the clone's over those kept."""

    gain: Array
    bias: Array


def readers(evidence: Evidence, norm: Norm) -> Iterator[Projection]:
    """The products that stay and read a norm's output as it is."""
    for p in evidence.products:
        if p.output in evidence.living and _origin(evidence, p.input, norm.output) == norm.output:
            yield p


def _origin(evidence: Evidence, name: str, wanted: str) -> str:
    for _ in range(STEPS):
        maker = evidence.nodes.get(name)
        if name == wanted or maker is None or maker.op not in PASSED:
            break
        name = maker.inputs[0].name
    return name


def affine(evidence: Evidence, norm: Norm, kept: Array) -> Affine | None:
    """As the passes before have corrected it; None where gain or bias are computed otherwise than by a sum."""
    whole, clone = np.ones(norm.width), np.ones(kept.size)
    if norm.gain_at is None:
        output = evidence.made.get((norm.output, OUTPUT))
        clone = clone if output is None else np.asarray(clone * output.scale)
    else:
        found = source(evidence, norm.gain_at)
        if found is None:
            return None
        use, added = found
        whole = evidence.tensor(use).values.astype(np.float64).reshape(-1) + added
        clone = evidence.corrected(use).reshape(-1) + added
    shift, shifted = np.zeros(norm.width), np.zeros(kept.size)
    if norm.bias_at is not None:
        found = source(evidence, norm.bias_at)
        if found is None:
            return None
        shift = evidence.tensor(found[0]).values.astype(np.float64).reshape(-1)
        shifted = evidence.corrected(found[0]).reshape(-1)
    if whole.size not in (1, norm.width) or clone.size not in (1, kept.size):
        return None
    gain = [np.broadcast_to(whole, norm.width), np.broadcast_to(clone, kept.size)]
    bias = [np.broadcast_to(shift, norm.width), np.broadcast_to(shifted, kept.size)]
    return Affine(np.concatenate(gain), np.concatenate(bias))
