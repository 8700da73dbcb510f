"""Which channels a norm of the clone averages over: those that what makes its input keeps, or else its gain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.errors import UnsupportedGraph
from graphclone.verification.claims import Claims
from graphclone.verification.forms import FORMS, constant, name_of

Array = np.ndarray[Any, Any]
REACH = 12  # nodes from a mean to the gain behind it
# whose outputs are other channels
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "MatMulNBits", "FusedMatMul", "Conv", "Einsum")
CHANNEL_BY_CHANNEL = ("Add", "Sub", "Mul", "Div", "Pow", "Abs", "Cast", "Identity")


def mask(node: gs.Node, width: int, left: int, claims: Claims) -> Array:
    """1 for the channels kept: those that what makes the norm's input keeps, or its gain; where neither says it, those
    of the one kept set that fits."""
    sets = [] if node.op in FORMS else _taken(_makers(node.inputs[0], width), left, claims)
    if not _agree(sets):
        sets = _taken(_gains(node, width), left, claims)
    planned = [np.asarray(kept, np.int64) for kept in claims.plan.keep.values()]
    sets = sets or [kept for kept in planned if kept.size == left and kept.max() < width]
    if not _agree(sets):
        raise UnsupportedGraph(
            f"it is not told over which {left} of {width} channels the norm that makes {name_of(node)} averages"
        )
    made: Array = np.zeros(width, np.float32)
    made[sets[0]] = 1.0
    return made


def _cuts(parent: str, claims: Claims) -> Iterator[Any]:
    yield from (claim for claim in claims.slices.values() if claim.parent == parent)


def _taken(weights: list[gs.Constant], left: int, claims: Claims) -> list[Array]:
    """What is kept of the last axis of some weights, where it is as many as the norm has left."""
    takes = [claim.take[-1] for t in weights for claim in _cuts(t.name, claims) if claim.take]
    return [take for take in takes if take is not None and take.size == left]


def _agree(sets: list[Array]) -> bool:
    return bool(sets) and all(set(kept.tolist()) == set(sets[0].tolist()) for kept in sets)


def _makers(tensor: gs.Tensor, width: int) -> list[gs.Constant]:
    """Weights of that width in their last axis that make what a norm reads, up to the nearest products."""
    found, waiting, seen = [], [tensor], {tensor.name}
    while waiting:
        node = next(iter(waiting.pop().inputs), None)
        if node is None or node.op not in (*CHANNEL_BY_CHANNEL, *PRODUCTS[:1], "Gather"):
            continue
        found += [c for t in node.inputs if (c := constant(t)) is not None and tuple(c.shape)[-1:] == (width,)]
        fresh = [t for t in node.inputs if t.name not in seen and node.op in CHANNEL_BY_CHANNEL]
        seen |= {t.name for t in fresh}
        waiting += fresh
    return found


def _gains(node: gs.Node, width: int) -> list[gs.Constant]:
    """Vectors of that width among the norm's inputs, or the nearest behind a mean, before the next product; a gain may
    be met on the other factor, before the division."""
    near = [c for t in node.inputs[1:] if (c := constant(t)) is not None and tuple(c.shape) == (width,)]
    if near or node.op in FORMS:
        return near
    layer, seen = [node], {id(node)}
    for _ in range(REACH):
        after = [n for one in layer for t in one.outputs for n in t.outputs if id(n) not in seen]
        layer = [n for n in after if n.op not in PRODUCTS]
        seen |= {id(n) for n in layer}
        factors = [t for n in layer for t in n.inputs]
        factors += [t for n in layer for given in n.inputs for m in given.inputs if m.op == "Mul" for t in m.inputs]
        found = [c for t in factors if (c := constant(t)) is not None and tuple(c.shape) == (width,)]
        if found:
            return found[:1]
    return []
