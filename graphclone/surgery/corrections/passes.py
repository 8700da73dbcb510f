"""The table of corrections, and how a method's passes come together."""

from __future__ import annotations

from collections.abc import Callable

from graphclone.plan import passes_of
from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.corrections.least_squares import least_squares
from graphclone.surgery.corrections.mean_bias import mean_bias
from graphclone.surgery.corrections.norm_gain import norm_gain
from graphclone.surgery.corrections.paper import paper
from graphclone.surgery.slice_weights import Correction, Use

# name -> what becomes of each use of a weight; a later pass of a method has the last word on a use
PASSES: dict[str, Callable[[Evidence], dict[Use, Correction]]] = {
    "none": lambda evidence: {},
    "paper": paper,
    "norm-gain": norm_gain,
    "least-squares": least_squares,
    "mean-bias": mean_bias,
}


def corrections(method: str, evidence: Evidence) -> dict[Use, Correction]:
    """What a method ("norm-gain+least-squares") makes of the weights.

    Raises InvalidTarget where it needs statistics that are not there.
    """
    found: dict[Use, Correction] = {}
    for name in passes_of(method):
        found |= PASSES[name](evidence)
    return found
