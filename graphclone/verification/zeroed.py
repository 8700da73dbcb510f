"""The zeroed parent: the parent's own graph, in which everything that the clone lacks is zero, and adds nothing.

A weight keeps, of what each use of it has in the clone, the positions claimed, times what they were scaled by; where
the clone's were computed anew (least squares, a norm's gain, training) it holds the clone's numbers at those positions.
Weights that the clone has nothing of are zero: so are the branches of blocks that were dropped. Of integers, zero is
their zero point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.claims import Claims, Slice
from graphclone.verification.weights import fits, recompute

Array = np.ndarray[Any, Any]
FACTORS = ("alpha", "scale")
HANDED_ON = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")  # a weight in another type or shape
FLOATS = ("float64", "float32", "float16", "bfloat16")
BIAS_OF_SUMS = {  # norms that take a branch in -> what each is without it, and the input that is the branch's bias
    "SkipLayerNormalization": ("LayerNormalization", 4),
    "SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", 3),
}


class Ambiguous(Exception):
    """It cannot be told which of a weight's slices a use of it has."""


def zeroed(parent: Model, clone: Model, claims: Claims) -> Model:
    """A copy of the parent; its own arrays stay as they are. Raises Ambiguous."""
    copy = parent.copy()
    builder = _Builder(parent, clone, claims)
    copy.graph.nodes[:] = [made for node in copy.graph.nodes for made in (*_own_weights(node, builder), node)]
    made: dict[tuple[str, tuple[str, ...], str], gs.Constant] = {}
    for node in copy.graph.nodes:
        twin = builder.twin(node)
        node.attrs.update(_factors(node, twin))
        for place, tensor in enumerate(node.inputs):
            zero = _zero(node, place, tensor) if isinstance(tensor, gs.Constant) else None
            if zero is None:
                continue
            gone = builder.is_gone(node) or builder.went_with_a_branch(node, place)
            names = () if gone else builder.slices_of(tensor, twin, place)
            key = (tensor.name, names, zero.said_by)
            if key not in made:
                values = builder.values(tensor, names, zero.values)
                same = values is tensor.values
                made[key] = tensor if same else gs.Constant(f"{tensor.name}_{len(made)}_zeroed", values)
            node.inputs[place] = made[key]
    return copy


def _own_weights(node: gs.Node, builder: _Builder) -> Iterator[gs.Node]:
    """What a dropped node reads of a weight in another type or shape, which kept ones read too, is made for it anew:
    zero there is zero for it alone."""
    for place, tensor in enumerate(node.inputs):
        maker = tensor.inputs[0] if isinstance(tensor, gs.Variable) and tensor.inputs else None
        gone = builder.is_gone(node) or builder.went_with_a_branch(node, place)
        if gone and maker is not None and maker.op in HANDED_ON and not builder.is_gone(maker):
            own = gs.Variable(f"{tensor.name}_for_{node.outputs[0].name}", tensor.dtype)
            copy = gs.Node(maker.op, own.name, dict(maker.attrs), list(maker.inputs), [own], domain=maker.domain)
            yield from _own_weights(copy, builder)
            node.inputs[place] = own
            yield copy


@dataclass(frozen=True)
class _Zero:
    """What stands for 0 in a weight, of its shape, and the input that says so."""

    values: Array
    said_by: str = ""


INTEGERS = {  # (operator, input) -> input of its zero points, and the axis along which they may be several
    ("DequantizeLinear", 0): (2, 1),
    ("MatMulInteger", 1): (3, -1),
}


def _zero(node: gs.Node, place: int, tensor: gs.Constant) -> _Zero | None:
    """None where it is not told: of integers that count or index."""
    if str(tensor.dtype) in FLOATS:
        return _Zero(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape))
    if (node.op, place) not in INTEGERS:
        return None
    said_at, axis = INTEGERS[node.op, place]
    point = node.inputs[said_at] if len(node.inputs) > said_at else gs.Variable.empty()
    if point.is_empty():
        return _Zero(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape))
    if not isinstance(point, gs.Constant):
        return None
    values = np.asarray(point.values)
    if values.size > 1 and values.ndim == 1:
        along = int(node.attrs.get("axis", axis)) % len(tensor.shape)
        values = values.reshape([-1 if k == along else 1 for k in range(len(tensor.shape))])
    elif values.size == 1:
        values = values.reshape(())
    return _Zero(np.broadcast_to(values.astype(tensor.dtype), tensor.shape), point.name)


def _factors(node: gs.Node, twin: gs.Node | None) -> dict[str, float]:
    """Factors that are attributes, as the clone has them: a product may hold the root of a width (FusedMatMul)."""
    held = {} if twin is None else twin.attrs
    return {name: held[name] for name in FACTORS if name in held and name in node.attrs}


class _Builder:
    def __init__(self, parent: Model, clone: Model, claims: Claims) -> None:
        self.outputs = {t.name for t in parent.graph.outputs}
        self.claims, self.after = claims, clone.constants()
        self.twins = {t.name: node for node in clone.graph.nodes for t in node.outputs if t.name}
        self.uses: dict[str, list[str]] = {}
        for name, claim in sorted(claims.slices.items()):
            if claim.parent is not None and name in self.after:
                self.uses.setdefault(claim.parent, []).append(name)

    def twin(self, node: gs.Node) -> gs.Node | None:
        """The clone's node that does the same, by the names of what it makes."""
        found = next((self.twins[t.name] for t in node.outputs if t.name in self.twins), None)
        return found if found is not None and found.op == node.op else None

    def is_gone(self, node: gs.Node) -> bool:
        """Was it dropped with its block or its part? What others read too is zero for it then. Caches are renumbered,
        and their makers not known by name."""
        plan = self.claims.plan
        drops = (plan.drop_blocks, plan.drop_attention, plan.drop_feed_forward)
        names = {t.name for t in node.outputs}
        return any(map(bool, drops)) and names.isdisjoint(self.twins) and names.isdisjoint(self.outputs)

    def went_with_a_branch(self, node: gs.Node, place: int) -> bool:
        """Is it the bias of a branch that the clone's norm no longer takes in? Other blocks may share it."""
        norm = BIAS_OF_SUMS.get(node.op)
        made = self.twins.get(node.outputs[0].name) if norm else None
        return norm is not None and made is not None and (made.op, place) == norm

    def slices_of(self, tensor: gs.Constant, twin: gs.Node | None, place: int) -> tuple[str, ...]:
        """The clone's initializers that a use of the parent's may be: the one in its place, or else all its slices."""
        if twin is not None and place < len(twin.inputs) and isinstance(twin.inputs[place], gs.Constant):
            name = str(twin.inputs[place].name)
            claim = self.claims.slices.get(name)
            if claim is not None and (claim.parent == tensor.name or claim.shape_constant):
                return (name,)
        return tuple(self.uses.get(tensor.name, ()))

    def values(self, tensor: gs.Constant, names: tuple[str, ...], zero: Array) -> Array:
        """What a weight of the parent holds for such a use; ``zero`` stands for 0 in it."""
        array: Array = tensor.values
        claims = [self.claims.slices[name] for name in names]
        if not claims:
            return np.array(zero) if array.size > 1 else array
        first = claims[0]
        if first.shape_constant:
            return self.after[names[0]] if self.after[names[0]].shape == array.shape else array
        if not all(fits(array, claim) for claim in claims):
            raise Ambiguous(f"the indices claimed of {tensor.name} do not fit it")
        if any(claim.scale != first.scale or claim.replaced != first.replaced for claim in claims):
            raise Ambiguous(f"{tensor.name} is scaled differently by its several uses")
        if not first.replaced and not self.claims.trained:
            return _cleared(array, claims, zero)
        values: Array = np.array(zero)
        values[_places(array, first)] = self.after[names[0]]
        return values


def _places(array: Array, claim: Slice) -> tuple[Array, ...]:
    return np.ix_(*(np.arange(n) if t is None else t for n, t in zip(array.shape, claim.take, strict=True)))


def _cleared(array: Array, claims: list[Slice], zero: Array) -> Array:
    """Zero at the positions of each axis that none of the slices has, times their scale."""
    values = array
    for axis, size in enumerate(array.shape):
        kept = np.zeros(size, bool)
        for claim in claims:
            indices = claim.take[axis]
            kept[slice(None) if indices is None else indices] = True
        if not kept.all():
            values = np.array(values) if values is array else values
            gone = (slice(None),) * axis + (~kept,)
            values[gone] = zero[gone]
    if np.ndim(claims[0].scale):  # a number a kept position: what was dropped is zero, whatever it is scaled by
        return _scaled(values, claims[0])
    return recompute(values, Slice(claims[0].parent, (None,) * values.ndim, claims[0].scale))


def _scaled(values: Array, claim: Slice) -> Array:
    wide = np.promote_types(values.dtype, np.float32)
    made, places = values.astype(wide), _places(values, claim)
    made[places] *= np.asarray(claim.scale, wide)
    return made.astype(values.dtype)


def difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> tuple[float, str]:
    """Largest |difference| / largest |expected| over the outputs that keep their shape, and the output it is in.

    Outputs whose shape follows the cut (caches of dropped heads) are left out; infinity where none is left, or where
    either is not finite.
    """
    worst, where = -1.0, ""
    for name, wanted in expected.items():
        found = actual.get(name)
        if found is None or found.shape != wanted.shape:
            continue
        if wanted.dtype == object:  # words
            wanted, found = np.ones(wanted.shape), (wanted == found).astype(np.float64)
        a, b = np.asarray(wanted, dtype=np.float64), np.asarray(found, dtype=np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf"), name
        distance = float(np.abs(a - b).max(initial=0.0)) / max(float(np.abs(a).max(initial=0.0)), 1e-12)
        if distance > worst:
            worst, where = distance, name
    return (worst, where) if worst >= 0 else (float("inf"), "(none kept its shape)")
