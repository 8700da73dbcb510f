"""least-squares: what a cut FFN-down or attention output projection lost is made up by the inputs that it keeps.

With W [inputs, outputs], J the inputs kept, S the second moments of all inputs (centred where a bias can take the
means), the kept rows become

    W' = (S[J, J] + lambda m I)^-1 S[J, :] W     and   bias' = bias + mu W - mu[J] W'

Nothing nonlinear stands between the cut and the product, so this is the best linear answer for the data measured
(Wiring Beats Blending, arXiv 2608.02829; OSSCAR). How lambda is chosen, and when the slice stays: fitting.py.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Site
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import node_key
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections import factors
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.fitting import ENOUGH, Fit, Moments, Wanted, repaired
from graphclone.surgery.corrections.paper import uses_of
from graphclone.surgery.slice_weights import Correction, Use

NAME = "least-squares"


def least_squares(evidence: Evidence) -> dict[Use, Correction]:
    """Replacements of every projection whose inputs were cut."""
    statistics = evidence.measured(NAME)
    found: dict[Use, Correction] = {}
    for p, site in evidence.inner:
        kept = evidence.cut.kept(site)
        if kept.size == site.width:
            continue
        if reason := _unfit(evidence, p, site, statistics):
            evidence.notes[site.name] = {"kept the slice": reason}
            continue
        found |= _repaired(evidence, p, site, kept, statistics)
    return found


def _unfit(evidence: Evidence, p: Projection, site: Site, statistics: Statistics) -> str | None:
    """Why a projection keeps its slice, or None."""
    held = statistics.sites.get(site.name, {})
    if "moment" not in held:
        raise InvalidTarget(
            f"method {NAME} needs second moments, which the statistics lack at {site.name}: measure with --moments"
        )
    tokens = int(held["moment_count"][0])
    if tokens < ENOUGH * site.width:
        return f"moments of {tokens} tokens, {ENOUGH * site.width} are needed ({ENOUGH} a neuron)"
    reason = unlike_a_matrix(evidence, p)
    if reason is None and p.weight in evidence.cut.trace.shared:
        return "its weight is shared with another product"
    return reason


def unlike_a_matrix(evidence: Evidence, p: Projection) -> str | None:
    """Why a projection's weight cannot be replaced by another, or None."""
    weight = evidence.weights[p.weight]
    if weight.ndim != 2 or weight.dtype.kind not in "fV":
        return f"its weight is {weight.dtype}{list(weight.shape)}, no matrix of floats"
    if len(uses_of(p)) != 1:
        return "its weight is not found beside the product"
    return None if factors.of_weight(p) else "its weight is multiplied by more than a number, or by 0"


def matrix_of(evidence: Evidence, p: Projection) -> Array:
    """A projection's weight as float64 [inputs, outputs], all inputs and the outputs that stay, with the number that
    the product multiplies it by."""
    (use,) = uses_of(p)
    weight = evidence.weights[p.weight].astype(np.float64) * (factors.of_weight(p) or 1.0)
    matrix = weight if p.in_axis == 0 else weight.T
    if evidence.basis is not None and p.output in evidence.onto_the_stream:
        return np.asarray(matrix @ evidence.basis)
    outputs = evidence.cut.takes(p.weight, use).get(p.out_axis)
    return matrix if outputs is None else matrix[:, outputs]


def _repaired(
    evidence: Evidence, p: Projection, site: Site, kept: Array, statistics: Statistics
) -> dict[Use, Correction]:
    moments, matrix, bias = Moments.of(statistics.sites[site.name]), matrix_of(evidence, p), bias_of(p)
    base = None if bias is None else moments.mean @ matrix
    fit = repaired(Wanted(kept, np.arange(site.width), matrix, matrix[kept]), moments, base)
    evidence.notes[site.name] = fit.note
    return placed(evidence, p, bias, fit)


def placed(evidence: Evidence, p: Projection, bias: Use | None, fit: Fit) -> dict[Use, Correction]:
    """A fit as corrections of a projection's weight and bias."""
    (use,) = uses_of(p)
    found = {}
    if fit.values is not None:
        values = fit.values / (factors.of_weight(p) or 1.0)
        found[use] = Correction(values=values if p.in_axis == 0 else values.T)
    if bias is not None and fit.added is not None:
        found[bias] = raised(evidence, p, bias, fit.added)
    return found


def held_bias(evidence: Evidence, p: Projection, bias: Use) -> Array:
    """What a product adds of its bias, as corrected so far."""
    return np.asarray(evidence.corrected(bias).reshape(-1) * factors.of_bias(p, bias))


def raised(evidence: Evidence, p: Projection, bias: Use, added: Array) -> Correction:
    """A bias, for the product to add so much more."""
    held = evidence.corrected(bias)
    return Correction(values=held + added.reshape(held.shape) / factors.of_bias(p, bias))


def bias_of(p: Projection) -> Use | None:
    """Where the projection's own bias enters: Gemm's third input, or an Add right behind the product."""
    if p.node.op in factors.GEMMS and len(p.node.inputs) > 2 and isinstance(p.node.inputs[2], gs.Constant):
        own = (node_key(p.node), 2)
        if factors.of_bias(p, own):
            return own
    if p.node.op == "FusedGemm":
        return None  # an activation stands between it and what is behind
    readers = [n for n in p.node.outputs[0].outputs if n.op != "Shape"]
    if len(readers) != 1 or readers[0].op != "Add":
        return None
    constants = [k for k, t in enumerate(readers[0].inputs) if isinstance(t, gs.Constant) and t.values.size > 1]
    return (node_key(readers[0]), constants[0]) if len(constants) == 1 else None
