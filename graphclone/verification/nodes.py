"""Is each node of the clone the parent's, and reads what that reads? Sizes, and numbers that follow them, may differ.

What a surgery may rewrite is told here again, on its own: whatever it is not is a fault. So a clone is held against its
parent where numbers cannot be compared too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.claims import Claims
from graphclone.verification.numbers import Ratios, number
from graphclone.verification.twins import Twins, read_by
from graphclone.verification.zeroed import BIAS_OF_SUMS, FACTORS

SIZES_AT = {  # operands that are sizes, or count along an axis
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Resize": (3,),
    "Slice": (1, 2),
    "Split": (1,),
    "Gather": (1,),
    "GatherND": (1,),
    "Tile": (1,),
}
NUMBERS_AT = {"Mul": (0, 1), "Div": (0, 1), "Add": (0, 1)}  # operands that may follow a size
MENDING = ("Concat", "Mul", "Div", "Where")  # by which a size that is computed is mended before it is read
COUNTS = frozenset(  # attributes that count neurons
    "num_heads kv_num_heads q_num_heads qkv_hidden_sizes rotary_embedding_dim split starts ends group".split()
)
EPSILON = 1e-12  # of a norm that takes a branch in, where it does not say


def faults(parent: Model, clone: Model, claims: Claims) -> Iterator[str]:
    """One of each node that is not as it should be."""
    examiner = _Examiner(parent, clone, claims)
    for node in clone.graph.nodes:
        yield from examiner.faults(node)


class _Examiner:
    def __init__(self, parent: Model, clone: Model, claims: Claims) -> None:
        self.claims = claims
        self.twins = Twins(parent, clone, claims)
        self.ratios = Ratios(claims, parent.constants())
        self.mending: dict[int, bool] = {}

    def faults(self, node: gs.Node) -> Iterator[str]:
        said = f"{node.op} node {node.name or node.outputs[0].name!r}"
        if id(node) in self.twins.inserted:
            yield from (f"{said} {why}" for why in self._behind(node))
            return
        twins = self.twins.twins(node)
        found = [list(self._differences(node, twin)) for twin in twins]
        if found:
            yield from (f"{said} {why}" for why in min(found, key=len)[:1])
        elif not self._mends(node):
            yield f"{said} makes nothing that the parent makes"

    def _behind(self, node: gs.Node) -> Iterator[str]:
        """A pick from a table, or a factor behind a product."""
        held = node.inputs[1].values
        if node.op == "Mul" and not self.ratios.explain(float(held.reshape(-1)[0]), 1.0, str(held.dtype)):
            yield f"multiplies by {held.reshape(-1)[0]}, which no cut explains"

    def _mends(self, node: gs.Node) -> bool:
        """Does it compute whole numbers for operands that are sizes, and nothing else?"""
        if id(node) not in self.mending:
            constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
            self.mending[id(node)] = (
                node.op in MENDING
                and all(t.values.dtype.kind in "iub" for t in constants)
                and all(k in SIZES_AT.get(n.op, ()) or self._mends_for(n) for n, k in read_by(node))
            )
        return self.mending[id(node)]

    def _mends_for(self, reader: gs.Node) -> bool:
        return not self.twins.twins(reader) and self._mends(reader)

    def _differences(self, node: gs.Node, twin: gs.Node) -> Iterator[str]:
        attributes, operands = twin.attrs, [[tensor] for tensor in twin.inputs]
        if (node.op, _domain(node)) != (twin.op, _domain(twin)):
            plain, bias = BIAS_OF_SUMS.get(twin.op, ("", 0))
            joined = self.twins.drops and node.op == "Identity" and node.outputs[0].name in self.twins.outputs
            if joined:
                return
            if not self.twins.drops or node.op != plain:
                yield f"is a {twin.op} in the parent"
                return
            attributes = {"axis": -1, "epsilon": twin.attrs.get("epsilon", EPSILON)}
            operands = [list(twin.inputs[:2]), *([t] for t in twin.inputs[2:bias])]
        if node.op == "Sum" and self.twins.drops:
            operands = [list(twin.inputs)] * len(node.inputs)
        yield from self._attributes(node, attributes)
        for place, tensor in enumerate(node.inputs):
            olds = operands[place] if place < len(operands) else [gs.Variable.empty()]
            whys = [self._operand(node, place, tensor, old) for old in olds]
            if all(whys):
                yield f"{whys[0]}"
        for place, olds in enumerate(operands[len(node.inputs) :], len(node.inputs)):
            if not olds[0].is_empty() and node.op != "Split":
                yield f"lacks input {place}, {olds[0].name}"

    def _attributes(self, node: gs.Node, wanted: dict[str, Any]) -> Iterator[str]:
        for name in sorted(node.attrs.keys() | wanted.keys()):
            new, old = node.attrs.get(name), wanted.get(name)
            if _same(new, old) or (node.op == "Split" and name == "num_outputs" and new is None):
                continue
            if name in COUNTS and self.claims.plan.keep and _fewer(new, old):
                continue
            follows = isinstance(new, float) and isinstance(old, float) and self.ratios.explain(new, old, "float32")
            if name not in FACTORS or not follows:
                yield f"has {name} = {new}, in the parent it is {old}"

    def _operand(self, node: gs.Node, place: int, tensor: gs.Tensor, old: gs.Tensor) -> str | None:
        if isinstance(tensor, gs.Constant):
            claim = self.claims.slices.get(tensor.name)
            if claim is None:
                return None
            if claim.shape_constant:
                return self._size(node, place, tensor, old)
            if isinstance(old, gs.Constant) and claim.parent == old.name:
                return None
            return f"reads a slice of {claim.parent} where it reads {old.name or 'nothing'} in the parent"
        if tensor.is_empty() and old.is_empty():
            return None
        maker = next(iter(tensor.inputs), None)
        mended = maker is not None and place in SIZES_AT.get(node.op, ()) and self._mends_for(maker)
        if mended or (not isinstance(old, gs.Constant) and self.twins.same_value(tensor, old, node)):
            return None
        return f"reads {tensor.name or 'nothing'} where it reads {old.name or 'nothing'} in the parent"

    def _size(self, node: gs.Node, place: int, tensor: gs.Constant, old: gs.Tensor) -> str | None:
        """A constant that encodes a size."""
        held = np.asarray(tensor.values)
        if held.dtype.kind in "iub":
            fits = place in SIZES_AT.get(node.op, ())
            return None if fits else f"reads {tensor.name} as input {place}, which is no size"
        before = number(old) if place in NUMBERS_AT.get(node.op, ()) else None
        follows = before is not None and all(
            self.ratios.explain(float(each), before, str(held.dtype)) for each in held.reshape(-1)
        )
        said = "no number that follows a size" if before is None else f"{before} in the parent, which no cut explains"
        return None if follows else f"reads {held.reshape(-1)[:1]} as input {place}, {said}"


def _domain(node: gs.Node) -> str:
    return "" if node.domain in (None, "ai.onnx") else str(node.domain)


def _same(new: Any, old: Any) -> bool:
    if isinstance(new, gs.Graph) and isinstance(old, gs.Graph):
        return len(new.nodes) == len(old.nodes) and all(
            (a.op, _domain(a)) == (b.op, _domain(b))
            and a.attrs.keys() == b.attrs.keys()
            and all(_same(a.attrs[name], b.attrs[name]) for name in a.attrs)
            for a, b in zip(new.nodes, old.nodes, strict=True)
        )
    if isinstance(new, gs.Constant) and isinstance(old, gs.Constant):
        new, old = new.values, old.values
    if isinstance(new, float) and isinstance(old, float):
        return new == old or bool(abs(new - old) <= 1e-6 * abs(old))
    if isinstance(new, np.ndarray | list | tuple) and isinstance(old, np.ndarray | list | tuple):
        return np.array_equal(np.asarray(new), np.asarray(old))
    return type(new) is type(old) and bool(new == old)


def _fewer(new: Any, old: Any) -> bool:
    """As many counts, none above the parent's."""
    if new is None or old is None:
        return False
    after, before = np.atleast_1d(new), np.atleast_1d(old)
    return after.shape == before.shape and bool((after <= before).all())
