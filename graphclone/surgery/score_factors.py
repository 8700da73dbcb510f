"""Finds the factors on one attention's scores, from the projections of queries and keys to the softmax, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import Note, node_key
from graphclone.surgery.cut import Cut
from graphclone.surgery.divisors import SAME

ATTRIBUTES = ("scale", "alpha")
Place = tuple[str, int | str]  # a node's key, and its operand or attribute

# linear operators between projections and scores, or scores and softmax -> inputs in which what is scaled may come
_MOVES = (
    "Cast Identity Reshape Squeeze Transpose Unsqueeze Flatten Slice Split Gather Expand Dropout Neg RotaryEmbedding"
)
PASSED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_MOVES.split(), (0,)),
    **dict.fromkeys(("Add", "Sub", "Mul", "MatMul"), (0, 1)),
    "Div": (0,),
    "Where": (1, 2),
    "Concat": tuple(range(64)),
}


@dataclass(frozen=True)
class Factor:
    """Scores are multiplied by ``by`` (its magnitude), once: in ``places``, several where parts of a head are scaled
    apart. ``fixed``: computed from shapes, or an operator's default, so that it follows the width by itself."""

    places: tuple[Place, ...]
    by: float
    fixed: bool = False


def all_equal(data: np.ndarray[Any, Any] | None) -> float | None:
    """The number that a constant holds everywhere; None for several, for none, and for what is no scale."""
    if data is None or not data.size or data.dtype.kind not in "fV":
        return None
    number = float(data.reshape(-1)[0])
    usable = number != 0.0 and np.isfinite(number) and (data == data.reshape(-1)[0]).all()
    return number if usable else None


def _projects(note: Note) -> bool:
    """Does a fused attention hold its projections?"""
    return note.kind == "attention" and note.node.op == "Attention" and bool(note.node.domain)


def _own(note: Note) -> Iterator[Factor]:
    """The attribute of the operator itself; a fused one divides by the root of a head's width where it has none."""
    key = node_key(note.node)
    given = [(n, float(note.node.attrs[n])) for n in ATTRIBUTES if float(note.node.attrs.get(n, 0.0)) != 0.0]
    for name, number in given[:1]:
        yield Factor(((key, name),), abs(number))
    if not given and note.kind == "attention":
        yield Factor(((key, ""),), float(note.inputs[0].shape[3]) ** -0.5, fixed=True)


class Walk:
    """Along the nodes around products of queries and keys."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._known: dict[str, list[Factor]] = {}
        self._products = {node_key(n.node) for n in cut.trace.notes if n.kind == "product"}

    def factors(self, note: Note) -> list[Factor]:
        """Of an attention: of a fused operator, or of the product of its queries and keys."""
        sides = [self.behind(tensor) for tensor in note.node.inputs[:2]] if not _projects(note) else []
        ahead = self.ahead(note.node.outputs[0]) if note.kind == "product" else []
        return [f for f in (*(f for side in sides for f in side), *_own(note), *ahead) if f.by != 1.0]

    def behind(self, tensor: gs.Tensor) -> list[Factor]:
        """What queries or keys were multiplied by since their projection."""
        if tensor.name in self._known:
            return self._known[tensor.name]
        node = self.cut.found.producers.get(tensor.name)
        if node is None or node.op not in PASSED or not self._of_heads(tensor) or node_key(node) in self._products:
            return []
        branches = [self.behind(node.inputs[k]) for k in self._followed(node)]
        self._known[tensor.name] = [*_merged(branches), *self._factor(node)]
        return self._known[tensor.name]

    def ahead(self, tensor: gs.Tensor) -> list[Factor]:
        """What scores are multiplied by until something is no longer linear in them."""
        found: list[Factor] = []
        waiting, seen = [tensor], {tensor.name}
        while waiting:
            held = waiting.pop()
            for node in held.outputs:
                place = next(k for k, t in enumerate(node.inputs) if t is held)
                made = node.outputs[0]
                if node.op == "MatMul" or place not in PASSED.get(node.op, ()) or made.name in seen:
                    continue
                here = list(self._factor(node))
                if node.op not in ("Mul", "Div") or here or self._plain(node, 1 - place):
                    seen.add(made.name)
                    found += here
                    waiting.append(made)
        return found

    def _followed(self, node: gs.Node) -> Iterator[int]:
        """Inputs that hold what is scaled. A product with numbers that vary with what is fed is a norm: what was scaled
        before it is no longer."""
        if node.op in ("Mul", "Div"):
            other = [self.cut.trace.input(node, k) for k in range(2)]
            if any(v is not None and not v.static and v.data is None and not v.labelled for v in other):
                return
        yield from (k for k in PASSED[node.op] if k < len(node.inputs))

    def _factor(self, node: gs.Node) -> Iterator[Factor]:
        for place in {"Mul": (0, 1), "Div": (1,)}.get(node.op, ()):
            held = self.cut.trace.input(node, place)
            number = all_equal(held.data) if held is not None else None
            if (
                held is not None
                and number is not None
                and (held.static or held.data is not None and held.data.size == 1)
            ):
                by = abs(number) if node.op == "Mul" else 1 / abs(number)
                yield Factor(((node_key(node), place),), by, not held.static)
                return

    def _plain(self, node: gs.Node, place: int) -> bool:
        """Does a product leave scores as they are, up to numbers known beforehand?"""
        held = self.cut.trace.input(node, place)
        return held is not None and held.data is not None

    def _of_heads(self, tensor: gs.Tensor) -> bool:
        indices = self.cut.found.of_value.get(tensor.name, frozenset())
        return any(self.cut.found.groups[i].kind == "qk_dim" for i in indices)


def _merged(branches: Iterable[list[Factor]]) -> list[Factor]:
    """Branches that meet again: a factor in each is one, as what comes before them is, or as parts of a head are."""
    merged: list[Factor] = []
    for branch in branches:
        open_ = list(range(len(merged)))
        for factor in branch:
            twin = next((k for k in open_ if abs(merged[k].by - factor.by) <= SAME * factor.by), None)
            if twin is None:
                merged.append(factor)
            else:
                open_.remove(twin)
                places = tuple(dict.fromkeys((*merged[twin].places, *factor.places)))
                merged[twin] = Factor(places, factor.by, factor.fixed)
    return merged
