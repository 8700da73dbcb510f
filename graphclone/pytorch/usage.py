"""How each float constant is used: followed from the constants to the first operator that settles what they are.

Values are of three kinds: *constant* (nothing of the inputs in it), *positional* (from integer inputs, shapes and
tables) and *signal* (from float inputs or embeddings). See weights.py for the rule this serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.pytorch.operators import Lookup, Row

CONSTANT, POSITIONAL, SIGNAL = 0, 1, 2
PICKS = frozenset({"Gather", "GatherElements", "GatherND", "EmbedLayerNormalization", "OneHot"})
MAKES_POSITIONS = frozenset({"Shape", "Size", "Range"})
ANGLES = frozenset({"Sin", "Cos"})
MULTIPLIES = frozenset({"Mul", "Div"})
ADDS = frozenset({"Add", "Sub", "Sum"})
IMAGE_CHANNELS, IMAGE_RANK = 4, 4


@dataclass
class Usage:
    """role: matrix, gain or bias once it is settled that the constant is a weight; None for a table."""

    role: str | None = None
    node: str = ""


@dataclass
class _Value:
    kind: int
    carried: frozenset[str] = frozenset()  # candidates that nothing has settled yet
    shifted: bool = False  # a constant was added on the way (a gain of 1 + w)
    raw: bool = False  # an image as it is fed, at most rescaled
    quantised: bool = False  # the integers of a weight


@dataclass
class _Walk:
    constants: dict[str, gs.Constant]
    found: dict[str, Usage] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)  # as data, not as numbers

    def settle(self, names: frozenset[str], role: str, node: gs.Node) -> None:
        for name in sorted(names):
            usage = self.found.setdefault(name, Usage(node=node.name))
            usage.role = usage.role or role

    def is_vector(self, names: frozenset[str]) -> bool:
        return all(max(self.constants[n].values.shape, default=1) == self.constants[n].values.size for n in names)


def uses(graph: gs.Graph, lookup: Lookup, candidates: dict[str, gs.Constant]) -> dict[str, Usage]:
    """Usage of each candidate that is a weight, or may be one, in the order of use."""
    by_role = _roles(graph, lookup)
    walk = _Walk({n: t for n, t in candidates.items() if t.values.size > 1 or n in by_role})
    values = {t.name: _input(t) for t in graph.inputs}
    for node in graph.nodes:
        outcome = _step(node, lookup.row(node), values, walk)
        for output in node.outputs:
            values[output.name] = outcome
    for name in walk.constants:
        if name in walk.met and name not in walk.found and name not in walk.tables:
            walk.found[name] = Usage("matrix")  # straight to an output
    return walk.found


def _constant(tensor: gs.Tensor) -> _Value:
    """A table of integers is positions that an exporter folded, or of bytes a weight; a single one is just a number."""
    if not isinstance(tensor, gs.Constant) or tensor.values.size < 2 or tensor.values.dtype.kind not in "iu":
        return _Value(CONSTANT)
    quantised = is_quantised(tensor.values)
    return _Value(CONSTANT if quantised else POSITIONAL, quantised=quantised)


def is_quantised(values: np.ndarray[Any, Any]) -> bool:
    """Bytes: the integers of a quantised weight, not positions or sizes."""
    return values.size > 1 and values.dtype.kind in "iu" and values.dtype.itemsize == 1


def _input(tensor: gs.Variable) -> _Value:
    return _Value(SIGNAL if _is_float(tensor) else POSITIONAL, raw=len(tensor.shape or ()) == IMAGE_RANK)


def _is_float(tensor: gs.Tensor) -> bool:
    if tensor.dtype is None or isinstance(tensor.dtype, int):  # an ONNX code: NumPy has no type for bfloat16
        return True
    return np.dtype(tensor.dtype).kind not in "iub"


def _roles(graph: gs.Graph, lookup: Lookup) -> set[str]:
    names = set()
    for node in graph.nodes:
        row = lookup.row(node) or Row(lambda: None)
        names |= {node.inputs[i].name for i in (*row.gains, *row.biases) if i < len(node.inputs)}
    return names


def _step(node: gs.Node, row: Row | None, values: dict[str, _Value], walk: _Walk) -> _Value:
    met = _met(node, row or Row(lambda: None), values, walk)
    if node.op in MAKES_POSITIONS:
        return _Value(POSITIONAL)
    carried = frozenset().union(*(v.carried for v in met))
    kind = max((v.kind for v in met), default=CONSTANT)
    if node.op in PICKS:
        return _picked(node, met, carried, walk)
    if node.op in ANGLES:
        walk.tables |= carried
        return _Value(max(kind, POSITIONAL))
    if kind == CONSTANT:
        return _unsettled(node, met, carried, walk)
    raw = any(v.raw for v in met) and all(v.raw or v.kind == CONSTANT for v in met)
    if kind == POSITIONAL or (raw and _few(carried, walk) and node.op in MULTIPLIES | ADDS):
        walk.tables |= carried
        return _Value(kind, raw=raw)
    for value in met:
        walk.settle(value.carried, _role(node, value, walk), node)
    return _Value(SIGNAL, raw=raw and not carried)


def _met(node: gs.Node, row: Row, values: dict[str, _Value], walk: _Walk) -> list[_Value]:
    """The operands that are data; those that are weights by role are settled."""
    met: list[_Value] = []
    for i, tensor in enumerate(node.inputs):
        if tensor.is_empty() or i in row.numbers:
            continue
        if tensor.name not in walk.constants:
            met.append(values.get(tensor.name) or _constant(tensor))
        elif i in row.fixed:
            walk.tables.add(tensor.name)
        elif i in row.gains or i in row.biases:
            walk.settle(frozenset({tensor.name}), "gain" if i in row.gains else "bias", node)
        else:
            walk.met.add(tensor.name)
            met.append(_Value(CONSTANT, frozenset({tensor.name})))
    return met


def _unsettled(node: gs.Node, met: list[_Value], carried: frozenset[str], walk: _Walk) -> _Value:
    """Constants among themselves; what multiplies the integers of a weight are its scales."""
    quantised = any(v.quantised for v in met)
    if quantised and node.op in MULTIPLIES:
        walk.settle(carried, "gain", node)
        carried = frozenset()
    shifted = any(v.shifted for v in met) or (node.op in ADDS and len(met) > 1)
    return _Value(CONSTANT, carried, shifted, quantised=quantised)


def _few(carried: frozenset[str], walk: _Walk) -> bool:
    return all(walk.constants[n].values.size <= IMAGE_CHANNELS for n in carried)


def _picked(node: gs.Node, met: list[_Value], carried: frozenset[str], walk: _Walk) -> _Value:
    """Rows picked from a weight are an embedding; from a table, a table."""
    walk.settle(carried, "matrix", node)
    if carried or node.op == "OneHot" or (met and met[0].quantised):
        return _Value(SIGNAL)
    kinds = [v.kind for v in met] or [CONSTANT]
    return _Value(SIGNAL if kinds[0] == SIGNAL else max(POSITIONAL if POSITIONAL in kinds else CONSTANT, kinds[0]))


def _role(node: gs.Node, value: _Value, walk: _Walk) -> str:
    if not walk.is_vector(value.carried):
        return "matrix"
    if node.op in MULTIPLIES:
        return "bias" if value.shifted else "gain"
    return "bias" if node.op in ADDS else "matrix"
