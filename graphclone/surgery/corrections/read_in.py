"""read-in: what reads a narrower norm makes up, from the neurons kept, for those that were dropped.

With y what a norm gives in the parent, over all neurons, z what it gives in the clone (its gain as corrected by the
passes before: norm-gain makes z as like y as one factor a neuron can), and W a product that reads it,

    W' = (E[z z^T] + lambda m I)^-1 E[z y^T] W     and   bias' = bias + E[y] W - E[z] W'

about the means where a bias can take them. Both moments are of the parent's stream, measured in a second pass, when it
is known which neurons stay. lambda is chosen as least squares chooses it (fitting.py). A weight that others read too,
as a head tied to the embedding, keeps its slice.
"""

from __future__ import annotations

import numpy as np

from graphclone.anatomy.projections import Projection
from graphclone.errors import InvalidTarget
from graphclone.surgery.corrections import factors
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.fitting import ENOUGH, Moments, Wanted, repaired
from graphclone.surgery.corrections.least_squares import bias_of, matrix_of, placed, unlike_a_matrix
from graphclone.surgery.corrections.paper import uses_of
from graphclone.surgery.corrections.readers import affine, readers
from graphclone.surgery.slice_weights import Correction, Use

NAME = "read-in"


def read_in(evidence: Evidence) -> dict[Use, Correction]:
    """Replacements of every product that reads a norm over a narrowed stream."""
    found: dict[Use, Correction] = {}
    for norm, site in evidence.norms:
        kept = evidence.cut.kept(site)
        if kept.size == site.width:
            continue
        held = evidence.second_pass(NAME).sites.get(f"{site.name}.{NAME}")
        if held is None or held["moment_sum"].size != site.width + kept.size:
            raise InvalidTarget(f"method {NAME}: the second pass lacks {site.name} with what this plan keeps")
        moments, both = Moments.of(held), affine(evidence, norm, kept)
        reason = None if both else "its gain is made by more than a sum"
        if moments.tokens < ENOUGH * kept.size:
            reason = f"moments of {moments.tokens} tokens, {ENOUGH * kept.size} are needed ({ENOUGH} a neuron)"
        if reason or both is None:
            evidence.notes[f"{site.name}.{NAME}"] = {"kept the slice": str(reason)}
            continue
        moments = moments.scaled(both.gain, both.bias)
        for p in readers(evidence, norm):
            found |= _repaired(evidence, p, site.width, kept.size, moments)
    return found


def _repaired(evidence: Evidence, p: Projection, width: int, kept: int, moments: Moments) -> dict[Use, Correction]:
    name = f"{p.output}.{NAME}"
    reason = unlike_a_matrix(evidence, p)
    if reason is None and p.weight in evidence.cut.trace.shared:
        reason = "its weight is shared"
    if reason:
        evidence.notes[name] = {"kept the slice": reason}
        return {}
    (use,), bias = uses_of(p), bias_of(p)
    plain: Array = evidence.corrected(use) * (factors.of_weight(p) or 1.0)
    matrix = matrix_of(evidence, p)
    sources, inputs = np.arange(width), width + np.arange(kept)
    base = None if bias is None else moments.mean[sources] @ matrix
    fit = repaired(Wanted(inputs, sources, matrix, plain if p.in_axis == 0 else plain.T), moments, base)
    evidence.notes[name] = fit.note
    return placed(evidence, p, bias, fit)
