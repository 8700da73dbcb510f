"""norm-gain: each norm over the residual stream gives what it gave, as far as one factor a channel can.

A norm over fewer channels divides by another root mean square. With u the parent's normalised channels without gain, k
of d kept, and q = E[u^2], the factor that restores the second moment is

    c^2 = E[rms_k^2 / rms_d^2] = sum(q[kept]) / k + (1 - sum(q) / d)

where the last term is what the epsilon adds: exact where the dropped channels are zero. RMSNorm: gain' = c gain. A
LayerNorm subtracts another mean too; with n the parent's normalised value at the kept channels and n' the one over
them alone, measured in a second pass, least squares gives a = cov(n, n') / var(n'), b = E n - a E n', and gain' = a
gain, bias' = bias + b gain. Without that pass it takes the factor c of its variance.

Norms of queries and keys over dimensions or heads that are cut get the factor sqrt(E[n^2] / E[n'^2]), measured in that
second pass too. Factors that are roots of the hidden size change with it: what they multiply makes up for that
(roots.py). A gain computed from a weight (1 + w) has the weight changed so that the sum comes out right; a norm without
a gain has its output multiplied. Weights are left as they are: never together with ``paper``, which corrects the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, AxisRef, Norm, Site
from graphclone.plan import Plan
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.paper import OUTPUT
from graphclone.surgery.corrections.roots import Drifts
from graphclone.surgery.slice_weights import Correction, Use

NAME = "norm-gain"
STEPS = 6  # between a weight and the gain made of it: casts, reshapes, one sum
SILENT = 1e-12  # variance of a normalised channel that says nothing
MOVES = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose")


@dataclass(frozen=True)
class Factors:
    """norm(parent)[kept] ~ a norm(clone) + b; ``a`` a number or [k], ``b`` [k] or None."""

    a: float | Array
    b: Array | None = None


def norm_gain(evidence: Evidence) -> dict[Use, Correction]:
    """The corrected gain and bias of every norm that reads a narrowed stream."""
    statistics = evidence.measured(NAME)
    drifts = Drifts.of(evidence)
    found = dict(drifts.weights)
    for norm, site in evidence.norms:
        kept = evidence.cut.kept(site)
        if kept.size == site.width:
            continue
        factors = _affine(evidence.affine, norm, site, kept) or Factors(scalar(statistics, norm, site, kept))
        found |= _corrected(evidence, norm, factors, drifts.norms.get(norm.output, 1.0))
    for norm in evidence.head_norms:
        factor = _of_heads(evidence, norm)
        if factor is not None:
            found |= _corrected(evidence, norm, Factors(factor), 1.0)
    return found


def _of_heads(evidence: Evidence, norm: Norm) -> float | None:
    """The factor that restores the second moment of queries or keys, where a second pass measured it."""
    held = evidence.affine.sites.get(norm.output) if evidence.affine is not None else None
    if held is None:
        evidence.notes[norm.output] = {"kept the slice": "no second pass over the data measured what the cut leaves"}
        return None
    return math.sqrt(float(held["n_square"].sum()) / max(float(held["k_square"].sum()), SILENT))


def cuts_layer_norms(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether a plan cuts the stream under a LayerNorm."""
    return any(
        len(plan.keep.get(stack.residual, range(stack.hidden))) < stack.hidden
        and any(n.kind == "LayerNorm" for n in (*stack.norms, *(m for b in stack.blocks for m in b.norms)) if n.site)
        for stack in anatomy.stacks
    )


def cuts_head_norms(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether a plan cuts dimensions or heads under a norm of queries or keys."""
    cut = {name for name, kept in plan.keep.items() if len(kept) < anatomy.groups[name].size}
    norms = (n for stack in anatomy.stacks for block in stack.blocks for n in block.norms if n.placement == "qk")
    along = (name for n in norms if n.gain for name, _ in anatomy.axes.get(AxisRef(n.gain, 0), ()))
    return any(name in cut for name in along)


def scalar(statistics: Statistics, norm: Norm, site: Site, kept: Array) -> float:
    """The factor c: root mean square (LayerNorm: deviation) over the kept channels by that over all."""
    q = statistics.mean(site.name, "square")
    second = float(q[kept].sum()) / kept.size
    if norm.kind == "LayerNorm":
        second -= float(statistics.mean(site.name, "sum")[kept].mean()) ** 2
    return math.sqrt(max(second + 1.0 - float(q.sum()) / q.size, 0.0))


def _affine(held: Statistics | None, norm: Norm, site: Site, kept: Array) -> Factors | None:
    """Least squares channel by channel, where a second pass measured over exactly these neurons."""
    if held is None or norm.kind != "LayerNorm" or site.name not in held.sites:
        return None
    n, k = held.mean(site.name, "n"), held.mean(site.name, "k")
    squares, product = held.mean(site.name, "k_square"), held.mean(site.name, "nk")
    if n.size != kept.size:
        return None
    if norm.bias_at is None:  # nothing can be added: through the origin
        return Factors(np.where(squares > SILENT, product / np.maximum(squares, SILENT), 1.0))
    variance = squares - k**2
    a = np.where(variance > SILENT, (product - n * k) / np.maximum(variance, SILENT), 1.0)
    return Factors(a, n - a * k)


def _corrected(evidence: Evidence, norm: Norm, factors: Factors, times: float) -> dict[Use, Correction]:
    """``times``: what the whole output is to be multiplied by as well."""
    if times != 1.0:
        factors = Factors(factors.a * times, np.zeros(1) if factors.b is None else factors.b * times)
    gain = None if norm.gain_at is None else source(evidence, norm.gain_at)
    if gain is None:
        return {(norm.output, OUTPUT): Correction(_number(factors.a))}
    use, added = gain
    weight = evidence.sliced(use).astype(np.float64)
    a = np.broadcast_to(np.asarray(factors.a).reshape(-1, *[1] * _trailing(weight)), weight.shape)
    if added or isinstance(factors.a, np.ndarray):
        found = {use: Correction(values=a * (weight + added) - added)}
    else:
        found = {use: Correction(_number(factors.a))}
    if factors.b is not None and norm.bias_at is not None:
        bias = source(evidence, norm.bias_at)
        if bias is not None:
            shift = (factors.b * (weight.reshape(-1) + added)).reshape(weight.shape)
            found[bias[0]] = Correction(values=evidence.sliced(bias[0]).astype(np.float64) * times + shift)
    return found


def _number(a: float | Array) -> float | Array:
    return float(a) if np.ndim(a) == 0 else np.asarray(a)


def _trailing(weight: Array) -> int:
    """Axes of one behind the channels: [k] has none, [k, 1, 1] two."""
    longest = int(np.argmax(weight.shape)) if weight.ndim else 0
    return max(weight.ndim - 1 - longest, 0)


def source(evidence: Evidence, use: Use) -> tuple[Use, float] | None:
    """The initializer behind a gain, and the number added to it on the way; None where it is made otherwise."""
    added = 0.0
    for _ in range(STEPS):
        tensor = evidence.tensor(use)
        if isinstance(tensor, gs.Constant):
            return use, added
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None:
            return None
        place = 0
        if maker.op == "Add":
            numbers = [k for k, t in enumerate(maker.inputs) if isinstance(t, gs.Constant) and t.values.size == 1]
            if len(numbers) != 1:
                return None
            added += float(maker.inputs[numbers[0]].values.reshape(-1)[0])
            place = 1 - numbers[0]
        elif maker.op not in MOVES:
            return None
        use = (next(t.name for t in maker.outputs if t.name), place)
    return None
