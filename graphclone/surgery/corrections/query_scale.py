"""query-scale: scores of a narrower head are divided as the parent divides them.

A clone divides its scores by the root of its own head's width h', as the architecture's configuration has it; the
parent by that of h. What it keeps of q . k was not blown up by the cut, so the queries take

    W_q' = W_q (h'/h)^p,    bias_q' = bias_q (h'/h)^p,    p = 1/2 where the graph divides by sqrt(h)

Normed queries take it in that norm's gain and bias. Where queries and keys share one packed weight, each takes the
root. Nothing where heads stay as wide, and where the scale is no root of the width and so stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphclone.anatomy.parts import Attention, AxisRef, Block, Norm
from graphclone.anatomy.projections import Projection
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.least_squares import bias_of
from graphclone.surgery.corrections.norm_gain import source
from graphclone.surgery.corrections.paper import uses_of
from graphclone.surgery.head_scale import powers_of_width
from graphclone.surgery.slice_weights import Correction, Use


def query_scale(evidence: Evidence) -> dict[Use, Correction]:
    """The factor on the queries of every attention whose heads are cut."""
    powers = powers_of_width(evidence.cut)
    found: dict[Use, Correction] = {}
    for stack in evidence.anatomy.stacks:
        for block in stack.blocks:
            if block.exit not in evidence.living and not any(n in evidence.living for n in block.nodes):
                continue
            power = sum(powers.get(key, 0.0) for key in block.nodes if key in evidence.living)
            for part in block.attention:
                full, kept = part.head_dim, _kept(evidence, part)
                if kept == full or power == 0.0:
                    continue
                factor = (kept / full) ** (-power / len(block.attention))
                for use, scale in _queries(evidence, block, part, factor):
                    found[use] = evidence.made.get(use, Correction()).times(scale)
    return found


def _kept(evidence: Evidence, part: Attention) -> int:
    """Of the positions of a head."""
    alive = evidence.cut.alive
    by_name = {g.name: g for g in evidence.cut.found.groups}
    groups = [(by_name[name], held) for name, held in part.qk_dims]
    fixed = part.head_dim - sum(held for _, held in groups)
    return fixed + sum(held // g.size * int(alive[g.classes].sum()) for g, held in groups)


def _queries(evidence: Evidence, block: Block, part: Attention, factor: float) -> Iterator[tuple[Use, float | Array]]:
    norms = [norm for norm in block.norms if norm.placement == "qk" and norm.gain_at is not None]
    if norms and len(block.attention) == 1:
        yield from _normed(evidence, norms[0], factor)
        return
    packed = part.q == part.k
    for p in evidence.products:
        if p.weight in part.q and p.output in evidence.living and p.output in block.nodes:
            scale = factor ** (0.5 if packed else 1.0)
            along = _along(evidence, part, p, scale)
            for use, axis in ((uses_of(p)[0], p.out_axis), (bias_of(p), -1)):
                if use is not None:
                    yield use, along if axis in (-1, evidence.sliced(use).ndim - 1) else along[:, None]


def _along(evidence: Evidence, part: Attention, p: Projection, scale: float) -> Array:
    """The factor at each position kept that a projection writes: of queries and keys where it writes values too."""
    names = {name for name, _ in part.qk_dims}
    factors = dict(evidence.anatomy.axes.get(AxisRef(p.weight, p.out_axis), ()))
    belongs = np.any([members >= 0 for name, members in factors.items() if name in names], axis=0)
    taken = evidence.cut.takes(p.weight, uses_of(p)[0]).get(p.out_axis)
    belongs = belongs if taken is None else belongs[taken]
    return np.where(belongs, scale, 1.0)


def _normed(evidence: Evidence, norm: Norm, factor: float) -> Iterator[tuple[Use, float | Array]]:
    """Of queries or of keys: their product is the same. A gain of 1 + w is the caller's to refuse: it stays."""
    for place in (norm.gain_at, norm.bias_at):
        behind = source(evidence, place) if place is not None else None
        if behind is not None and not behind[1]:
            yield behind[0], factor
