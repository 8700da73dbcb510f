"""depth-patch: the last projection before a run of dropped blocks writes what they would have added, too.

That projection reads a and adds W a to the stream; in the parent the run behind it changes the stream further, from
x_leaves to x_arrives. Of the kept neurons the clone's W' is to write

    t = W a + x_arrives - x_leaves,     W' = E[t z^T] (E[z z^T] + lambda m I)^-1,    z = a of the neurons kept

(ReplaceMe, Shopkhoev et al. 2025, arXiv 2505.02819, fused with the repair of the width), about the means where the
projection has a bias, which then takes E[t] - W' E[z]. lambda is chosen as least squares chooses it (fitting.py).
A branch that passes a norm or a factor before it is added has nowhere to put this: it keeps what it has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphclone.anatomy.gaps import Gap, gaps
from graphclone.anatomy.projections import Projection
from graphclone.errors import InvalidTarget
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.fitting import ENOUGH, Moments, Wanted, repaired
from graphclone.surgery.corrections.least_squares import bias_of, held_bias, matrix_of, placed, unlike_a_matrix
from graphclone.surgery.slice_weights import Correction, Use

NAME = "depth-patch"
STEPS = 8  # sums and moves between a branch and the stream behind its block
PASSED = ("Add", "Cast", "Identity", "Reshape", "Dropout", "Sum")


def depth_patch(evidence: Evidence) -> dict[Use, Correction]:
    """Replacements of the last projection before each run of dropped blocks."""
    plan, found = evidence.cut.plan, dict[Use, Correction]()
    statistics = None
    by_input = {p.input: p for p in evidence.products if p.output in evidence.onto_the_stream}
    for gap in gaps(evidence.anatomy, plan.drop_blocks, plan.drop_feed_forward):
        p = by_input.get(gap.inner.value)
        reason = "no product was found there" if p is None else _unfit(evidence, gap, p)
        if reason or p is None:
            evidence.notes[gap.name] = {"kept the slice": str(reason)}
            continue
        statistics = statistics or evidence.second_pass(NAME)
        found |= _patched(evidence, gap, p, statistics.sites)
    return found


def _unfit(evidence: Evidence, gap: Gap, p: Projection) -> str | None:
    """Why a projection cannot make up for the blocks behind it, or None."""
    reason = unlike_a_matrix(evidence, p)
    if reason is None and p.weight in evidence.cut.trace.shared:
        reason = "its weight is shared with another product"
    if reason is None and not _is_added(evidence, gap):
        reason = "what it writes is normed or multiplied before it is added"
    return reason


def _is_added(evidence: Evidence, gap: Gap) -> bool:
    """Does what a projection writes reach the stream behind its block through sums alone?"""
    name = gap.writer.value
    for _ in range(STEPS):
        if name == gap.leaves:
            return True
        readers = [n for n in evidence.nodes[name].outputs[0].outputs if n.op != "Shape"]
        sums = [n for n in readers if n.op in PASSED]
        if len(readers) != 1 or not sums:
            # parallel branches are summed first, and then again: any reader that is no sum means more than a sum
            return False
        name = sums[0].outputs[0].name
    return False


def _patched(
    evidence: Evidence, gap: Gap, p: Projection, sites: Mapping[str, Mapping[str, Array]]
) -> dict[Use, Correction]:
    bias, kept = bias_of(p), evidence.cut.kept(gap.inner)
    held, matrix = sites.get(gap.name), matrix_of(evidence, p)
    if held is None or held["moment_sum"].size != gap.inner.width + matrix.shape[1]:
        raise InvalidTarget(f"method {NAME}: the second pass lacks {gap.name} with what this plan keeps")
    moments = Moments.of(held)
    if moments.tokens < ENOUGH * kept.size:
        few = f"moments of {moments.tokens} tokens, {ENOUGH * kept.size} are needed ({ENOUGH} a neuron)"
        evidence.notes[gap.name] = {"kept the slice": few}
        return {}
    targets = gap.inner.width + np.arange(matrix.shape[1])
    base = None if bias is None else moments.mean[targets] - held_bias(evidence, p, bias)
    fit = repaired(Wanted(kept, targets, None, matrix[kept]), moments, base)
    evidence.notes[gap.name] = fit.note
    return placed(evidence, p, bias, fit)
