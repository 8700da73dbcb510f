"""mean-bias: what dropped inputs added on average goes into the bias of the projection that read them.

    bias' = bias + mu[dropped] W[dropped]

A projection without a bias keeps its slice: no weight is added to the graph (FLAP, An et al. 2023, arXiv 2312.11983).
"""

from __future__ import annotations

import numpy as np

from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.corrections.least_squares import bias_of, matrix_of, raised, unlike_a_matrix
from graphclone.surgery.slice_weights import Correction, Use

NAME = "mean-bias"


def mean_bias(evidence: Evidence) -> dict[Use, Correction]:
    """The biases of every projection onto a residual stream whose inputs were cut."""
    statistics = evidence.measured(NAME)
    found: dict[Use, Correction] = {}
    for p, site in evidence.inner:
        kept = evidence.cut.kept(site)
        bias = bias_of(p)
        if kept.size == site.width or bias is None or unlike_a_matrix(evidence, p):
            continue
        matrix = matrix_of(evidence, p)
        dropped = np.setdiff1d(np.arange(site.width), kept)
        lost = statistics.mean(site.name, "sum")[dropped] @ matrix[dropped]
        found[bias] = raised(evidence, p, bias, lost)
    return found
