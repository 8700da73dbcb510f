"""What ``best`` stands for, the default of ``--method`` and ``--depth``: which correction, and which blocks go.

Decided by training, not by the loss before it: docs/decisions/0012, 0022 and 0023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from graphclone.anatomy.parts import Anatomy
from graphclone.plan import BEST, with_best
from graphclone.statistics.depth import BEST as BEST_DEPTH
from graphclone.statistics.store import Statistics
from graphclone.target import Target


def settled(
    method: str,
    statistics: Statistics | None,
    anatomy: Anatomy,
    target: Target,
    keep: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """``best`` as passes, alone or beside others: norm-gain, and least squares where second moments were measured; the
    paper's scaling where there are no statistics (docs/decisions/0012), and where a stream that LayerNorms read before
    each part of a block is narrowed: there it trains better (docs/decisions/0023). Where ``keep`` cuts weights
    that cannot be scaled, not that."""
    scales = unscalable(anatomy, keep or {}) is None
    if statistics is None or (scales and narrows_layer_norms(anatomy, target)):
        return with_best(method, "paper" if scales else "")
    moments = any("moment" in held for held in statistics.sites.values())
    return with_best(method, "norm-gain+least-squares" if moments else "norm-gain")


def unscalable(anatomy: Anatomy, keep: Mapping[str, Sequence[int]]) -> str | None:
    """The first weight that keeps fewer of its inputs and cannot be multiplied for it, as those of quantised files."""
    cut = {name for name, kept in keep.items() if len(kept) < anatomy.groups[name].size}
    return next((p.weight for p in anatomy.linears if not p.scalable and not cut.isdisjoint(p.reads)), None)


def takes_moments(method: str, target: Target, *, budget: bool = False) -> bool:
    """Whether second moments are worth measuring: least squares takes them, asked for by name or by ``best``, where
    feed-forward neurons or heads are cut. A budget may cut them."""
    inside = (target.heads, target.kv_heads, target.head_dim, target.ffn)
    asked = not {BEST, "least-squares"}.isdisjoint(method.split("+"))
    return asked and (budget or any(size is not None for size in inside))


def narrows_layer_norms(anatomy: Anatomy, target: Target) -> bool:
    """Whether a target asks for fewer neurons of a residual stream that LayerNorms read, pre-norm."""
    asked = target.asked().get("hidden")
    return isinstance(asked, int | Fraction) and any(
        (asked < stack.hidden if isinstance(asked, int) else asked < 1)
        and any(n.kind == "LayerNorm" and n.placement == "pre" for block in stack.blocks for n in block.norms)
        for stack in anatomy.stacks
    )


def depth_beside(method: str, depth: str) -> str:
    """``best`` beside the paper's scaling, where that was asked for by name, is the paper's: ``--importance paper
    --method paper`` is the paper's way, whole (docs/decisions/0022). Beside anything else it is by influence."""
    return "paper" if depth == BEST_DEPTH and "paper" in method.split("+") else depth
