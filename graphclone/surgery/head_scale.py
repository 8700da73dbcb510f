"""Rewrites the scale of attention scores, a root of the width of a head, where that width is cut.

A graph writes 1/sqrt(d) in many places: a factor on the queries, the same on queries and keys as two fourth roots, a
divisor of the scores, an attribute. Where it is computed from shapes, or left to an operator's default, it follows by
itself; constants and attributes are rewritten here, so that a clone is what the architecture's own configuration gives.
All factors of one attention are looked at together: those whose product is the root follow it, a factor beside them
(a temperature) is the model's own and stays, as does one that is no root of d (Gemma 2 may scale by another number).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log, prod
from weakref import WeakKeyDictionary

import numpy as np

from graphclone.anatomy.trace import Note, describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.cut import Cut
from graphclone.surgery.divisors import SAME
from graphclone.surgery.resizer import Edit
from graphclone.surgery.score_factors import ATTRIBUTES, Factor, Place, Walk

ROOT = -0.5  # power of a head's width that scores are multiplied by
POWERS = (0.5, -0.5, 0.25, -0.25)


@dataclass(frozen=True)
class Scales:
    """Of all attentions whose heads are cut. ``follows``: constants that follow the width, and the magnitude of what
    scores are multiplied by there then. ``powers``: of the width, by node, those that follow by themselves too."""

    follows: dict[Place, float]
    powers: dict[str, float]


def rooted(number: float, full: int, kept: int) -> float | None:
    """What a root of ``full`` becomes where ``kept`` stay; None where nothing is cut, or for a number that is no root.

    >>> rooted(0.125, 64, 16), rooted(8.0, 64, 16), rooted(0.1, 64, 16)
    (0.25, 4.0, None)
    """
    power = next((p for p in POWERS if _near(number, full**p)), None)
    return None if power is None or kept == full else float(kept**power)


def attention_scale(edit: Edit) -> None:
    """A Mul or Div of queries, keys or scores by one number, however often it is written."""
    for place in range(2):
        by = _scales(edit.cut).follows.get((node_key(edit.parent), place))
        if by is not None:
            data, old = edit.operand(place), edit.before(place).data
            assert old is not None
            sign = float(np.sign(old.reshape(-1)[0]))
            number = sign * (by if edit.node.op == "Mul" else 1 / by)
            edit.replace(place, np.full((1,) * data.ndim, number).astype(data.dtype))
            return


def attribute_scale(edit: Edit) -> None:
    """``scale`` of a fused attention, ``alpha`` of a product of queries and keys that took the scale in."""
    for name in ATTRIBUTES:
        by = _scales(edit.cut).follows.get((node_key(edit.parent), name))
        if by is not None:
            edit.node.attrs[name] = float(np.copysign(by, float(edit.node.attrs[name])))


def powers_of_width(cut: Cut) -> dict[str, float]:
    """Node -> the power of a head's width that it multiplies scores by: -1/2 where they are divided by its root, twice
    -1/4 where queries and keys are each. Of heads that are cut; a factor that is no root is left out."""
    return _scales(cut).powers


_KNOWN: WeakKeyDictionary[Cut, Scales] = WeakKeyDictionary()


def _scales(cut: Cut) -> Scales:
    if cut not in _KNOWN:
        made, walk = Scales({}, {}), Walk(cut)
        for note, full, kept in _attentions(cut):
            if full != kept:
                _add(made, note, walk.factors(note), full, kept)
        _KNOWN[cut] = made
    return _KNOWN[cut]


def _attentions(cut: Cut) -> Iterator[tuple[Note, int, int]]:
    """Fused attentions, and products of queries and keys, with the width of a head and what is kept of it."""
    for note in cut.trace.notes:
        axis = {"attention": 3, "product": -1}.get(note.kind)
        if axis is None or note.kind == "product" and any(v.static or v.data is not None for v in note.inputs):
            continue
        queries = note.inputs[0]
        if note.kind == "attention" or any(g.kind == "qk_dim" for g in cut.found.on(queries.axis(axis))):
            yield note, queries.shape[axis], cut.size(queries.axis(axis), queries.shape[axis])


def _add(made: Scales, note: Note, found: Sequence[Factor], full: int, kept: int) -> None:
    fixed = [f for f in found if f.fixed and rooted(f.by, full, kept) is not None]
    made.powers.update({f.places[0][0]: log(f.by, full) for f in fixed})
    divided = any(_near(f.by, full**ROOT) for f in fixed)
    power = -ROOT if divided else ROOT  # where the root comes by itself, constants can only undo it
    chosen = _chosen(note, [f for f in found if not f.fixed], full, power)
    for factor in chosen:
        exact = rooted(factor.by, full, kept)
        by = factor.by * (kept / full) ** (power / len(chosen)) if exact is None else exact
        made.follows.update(dict.fromkeys(factor.places, by))
        made.powers[factor.places[0][0]] = log(by / factor.by, kept / full)


def _chosen(note: Note, found: Sequence[Factor], full: int, power: float) -> tuple[Factor, ...]:
    """The fewest factors whose product is the root. Raises UnsupportedGraph where it may be this or that of them."""
    for count in range(1, len(found) + 1):
        fit = [some for some in combinations(found, count) if _near(prod(f.by for f in some), full**power)]
        if len(fit) > 1:
            places = ", ".join(sorted({place[0] for some in fit for f in some for place in f.places}))
            raise UnsupportedGraph(
                f"{describe(note.node)}: each of {places} may be what divides scores by the root of {full} dimensions: "
                f"keep head_dim, or export one scale"
            )
        if fit:
            return fit[0]
    return ()


def _near(number: float, root: float) -> bool:
    return abs(number - root) <= SAME * root
