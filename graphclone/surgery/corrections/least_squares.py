"""least-squares: what a cut FFN-down or attention output projection lost is made up by the inputs that it keeps.

With W [inputs, outputs], J the inputs kept, S the second moments of all inputs (centred where a bias can take the
means), the kept rows become

    W' = (S[J, J] + lambda m I)^-1 S[J, :] W,   m = mean(diag S[J, J])     and   bias' = bias + mu W - mu[J] W'

Nothing nonlinear stands between the cut and the product, so this is the best linear answer for the data measured
(Wiring Beats Blending, arXiv 2608.02829; OSSCAR). lambda is the one of ``RIDGES`` with the least error on tokens that
the fit has not seen, raised until W' is at most ``GROWTH`` times as large as the plain slice; where even that is no
better than the slice on the unseen tokens, the slice stays. Where no tokens were set apart, lambda is ``DEFAULT``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Site
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import node_key
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.paper import uses_of
from graphclone.surgery.slice_weights import Correction, Use

NAME = "least-squares"
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # candidates for lambda
DEFAULT = 1e-3
GROWTH = 1.5  # largest norm of W' in norms of the slice
STRONGEST = 1e3  # lambda at which all hope is lost
SINGULAR = 1e-12  # eigenvalues below this share of the largest are none
ENOUGH = 20  # tokens a neuron: moments of fewer are noise


@dataclass(frozen=True)
class Moments:
    """E[a a^T], E[a] of the tokens fitted and of those held out (None: none were)."""

    second: Array
    mean: Array
    unseen: Array | None
    unseen_mean: Array | None

    def centred(self) -> Moments:
        """About the means."""
        unseen = self.unseen
        if unseen is not None and self.unseen_mean is not None:
            # about the fit's means, which the bias makes up for
            shift = np.outer(self.unseen_mean, self.mean)
            unseen = unseen - shift - shift.T + np.outer(self.mean, self.mean)
        return Moments(self.second - np.outer(self.mean, self.mean), self.mean, unseen, self.unseen_mean)


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
    return None if len(uses_of(p)) == 1 else "its weight is not found beside the product"


def matrix_of(evidence: Evidence, p: Projection) -> Array:
    """A projection's weight as float64 [inputs, outputs], all inputs and the outputs that stay."""
    (use,) = uses_of(p)
    weight = evidence.weights[p.weight].astype(np.float64)
    matrix = weight if p.in_axis == 0 else weight.T
    outputs = evidence.cut.takes(p.weight, use).get(p.out_axis)
    return matrix if outputs is None else matrix[:, outputs]


def _repaired(
    evidence: Evidence, p: Projection, site: Site, kept: Array, statistics: Statistics
) -> dict[Use, Correction]:
    (use,) = uses_of(p)
    moments = _moments(statistics, site.name)
    bias = bias_of(p)
    if bias is not None:
        moments = moments.centred()
    matrix = matrix_of(evidence, p)
    made, note = repaired(matrix, kept, moments)
    evidence.notes[site.name] = note
    if made is None:
        return {}
    found = {use: Correction(values=made if p.in_axis == 0 else made.T)}
    if bias is not None:
        lost = moments.mean @ matrix - moments.mean[kept] @ made
        found[bias] = Correction(values=evidence.sliced(bias).astype(np.float64) + lost)
    return found


def _moments(statistics: Statistics, site: str) -> Moments:
    """Of the tokens fitted: all but those that were set apart."""
    held = statistics.sites[site]
    whole, total = float(held["moment_count"][0]), held["moment_sum"]
    unseen = float(held["unseen_moment_count"][0]) if "unseen_moment_count" in held else 0.0
    fitted = whole - unseen
    if not unseen or not fitted:
        return Moments(held["moment"] / whole, total / whole, None, None)
    return Moments(
        (held["moment"] - held["unseen_moment"]) / fitted,
        (total - held["unseen_moment_sum"]) / fitted,
        held["unseen_moment"] / unseen,
        held["unseen_moment_sum"] / unseen,
    )


def repaired(matrix: Array, kept: Array, moments: Moments) -> tuple[Array | None, dict[str, float | str]]:
    """(rows for the kept inputs or None for the slice, what was found). ``matrix`` is [inputs, outputs], float64."""
    plain = matrix[kept]
    lost = matrix.copy()
    lost[kept] = 0.0
    ridges = RIDGES if moments.unseen is not None else (DEFAULT,)
    tried = [(ridge, fit(matrix, kept, moments.second, ridge)) for ridge in ridges]
    if moments.unseen is None:
        ridge, made = tried[0]
        return made, {"lambda": ridge}
    scored = [(_energy(_residual(matrix, kept, made), moments.unseen), ridge, made) for ridge, made in tried]
    error, ridge, made = min(scored, key=lambda row: row[0])
    while np.linalg.norm(made) > GROWTH * np.linalg.norm(plain) and ridge < STRONGEST:
        ridge *= 10
        made = fit(matrix, kept, moments.second, ridge)
        error = _energy(_residual(matrix, kept, made), moments.unseen)
    whole, before = _energy(matrix, moments.unseen), _energy(lost, moments.unseen)
    note: dict[str, float | str] = {"lambda": ridge, "error": error / whole, "error of the slice": before / whole}
    if not error < before:
        return None, {**note, "kept the slice": "it is better on the tokens held out"}
    return made, note


def fit(matrix: Array, kept: Array, second: Array, ridge: float) -> Array:
    """W' for one lambda, in float64; by eigenvectors where the moments are singular and no ridge helps."""
    block = second[np.ix_(kept, kept)]
    system = block + ridge * float(np.trace(block)) / kept.size * np.eye(kept.size)
    target = second[kept] @ matrix
    try:
        made = np.linalg.solve(system, target)
        if np.isfinite(made).all():
            return np.asarray(made)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh((system + system.T) / 2)
    floor = max(float(values.max(initial=0.0)) * SINGULAR, np.finfo(np.float64).tiny)
    inverse = np.where(values > floor, 1.0 / np.maximum(values, floor), 0.0)
    return np.asarray(vectors @ (inverse[:, None] * (vectors.T @ target)))


def _residual(matrix: Array, kept: Array, made: Array) -> Array:
    """What the parent's product has and the clone's has not, by input."""
    left = matrix.copy()
    left[kept] -= made
    return left


def _energy(left: Array, second: Array) -> float:
    """E|a^T left|^2."""
    return float(np.einsum("ij,ij->", left, second @ left))


def bias_of(p: Projection) -> Use | None:
    """Where the projection's own bias enters: Gemm's third input, or an Add right behind the product."""
    if p.node.op == "Gemm" and len(p.node.inputs) > 2 and isinstance(p.node.inputs[2], gs.Constant):
        return (node_key(p.node), 2)
    readers = [n for n in p.node.outputs[0].outputs if n.op != "Shape"]
    if len(readers) != 1 or readers[0].op != "Add":
        return None
    constants = [k for k, t in enumerate(readers[0].inputs) if isinstance(t, gs.Constant) and t.values.size > 1]
    return (node_key(readers[0]), constants[0]) if len(constants) == 1 else None
