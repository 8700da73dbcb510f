"""Follows each float constant to the first operator that settles whether it is a weight.

Values are of three kinds: *constant* (nothing of the inputs in it), *positional* (from integer inputs, shapes and
tables) and *signal* (from float inputs, embeddings, and whatever was multiplied by a weight and summed). A constant
that meets positional values waits for what becomes of them: angles or a bias of scores make it a table, a signal or a
summing product a weight. See weights.py for the rule this serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.pytorch.contractions import TABLE, summed
from graphclone.pytorch.operators import Lookup, Row
from graphclone.pytorch.operators.rows import CONTRIB

CONSTANT, POSITIONAL, SIGNAL = 0, 1, 2
PICKS = frozenset({"Gather", "GatherElements", "GatherND", "EmbedLayerNormalization", "OneHot"})
MAKES_POSITIONS = frozenset({"Shape", "Size", "Range"})
ANGLES = frozenset({"Sin", "Cos"})
MULTIPLIES = frozenset({"Mul", "Div"})
ADDS = frozenset({"Add", "Sub", "Sum"})
DECIDES = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "ArgMax", "ArgMin", "IsNaN", "IsInf", "NonZero"}
)
LEARNT = frozenset({"Exp", "Sigmoid", "Softplus", "Tanh"})  # nobody computes these of a fixed number in a graph
SCORED = {  # what is added to scores: (domain, op) -> inputs
    ("", "Softmax"): (0,),
    ("", "Attention"): (3,),
    (CONTRIB, "Attention"): (3, 5),
    (CONTRIB, "MultiHeadAttention"): (4, 5),
    (CONTRIB, "GroupQueryAttention"): (10,),
}
NO_SCORES = PICKS | ANGLES | frozenset(TABLE) | {op for _, op in SCORED} | {"LayerNormalization", "Shape"}
IMAGE_CHANNELS, IMAGE_RANK = 4, 4
FLOATS = frozenset({1, 10, 11, 16})  # onnx.TensorProto's
EPSILON = 1e-3  # a smaller number that is added keeps a root from zero


@dataclass
class Usage:
    """role: matrix, gain or bias once it is settled that the constant is a weight; None for a table.

    ``learnt``: a single number that is none by the operator's role.
    """

    role: str | None = None
    node: str = ""
    learnt: bool = False


@dataclass(frozen=True)
class Uses:
    """What was found. weights: usage by name, in the order of use. unclear: nothing says that they are tables, and
    nothing that they are weights, so they stay as they are. numbers: single numbers that scale or shift a signal.
    """

    weights: dict[str, Usage]
    unclear: tuple[str, ...]
    numbers: tuple[str, ...]


@dataclass
class _Value:
    kind: int
    carried: frozenset[str] = frozenset()  # candidates that nothing has settled yet
    shifted: bool = False  # a constant was added on the way (a gain of 1 + w)
    raw: bool = False  # an image as it is fed, at most rescaled
    quantised: bool = False  # the integers of a weight
    singles: frozenset[str] = frozenset()  # single numbers that may be parameters
    index: int = 0  # of the operand
    shape: tuple[int, ...] | None = None


@dataclass
class _Walk:
    constants: dict[str, gs.Constant]
    singles: dict[str, gs.Constant]
    scores: frozenset[str]  # values on their way into scores
    found: dict[str, Usage] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)  # met positional values
    numbers: dict[str, None] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)  # as data, not as numbers

    def settle(self, names: frozenset[str], role: str, node: gs.Node) -> None:
        for name in sorted(names):
            usage = self.found.setdefault(name, Usage(node=node.name, learnt=name in self.singles))
            usage.role = usage.role or role

    def values(self, name: str) -> Any:
        """Of a candidate."""
        return (self.constants.get(name) or self.singles[name]).values

    def is_vector(self, names: frozenset[str]) -> bool:
        return all(max(self.values(n).shape, default=1) == self.values(n).size for n in names)


def uses(graph: gs.Graph, lookup: Lookup, candidates: dict[str, gs.Constant], singles: set[str]) -> Uses:
    """Usage of each candidate; ``singles``: those of one number that may be parameters."""
    by_role = _roles(graph, lookup)
    several = {n: t for n, t in candidates.items() if t.values.size > 1 or n in by_role}
    walk = _Walk(several, {n: candidates[n] for n in singles - several.keys()}, _scores(graph))
    values = {t.name: _input(t) for t in graph.inputs}
    for node in graph.nodes:
        outcome = _step(node, lookup.row(node), values, walk)
        for output in node.outputs:
            values[output.name] = outcome
    for name in walk.constants:
        if name in walk.met and not {name} & (walk.found.keys() | walk.tables | walk.waiting):
            walk.found[name] = Usage("matrix")  # straight to an output
    unclear = [n for n in walk.constants if n in walk.waiting and n not in walk.tables and n not in walk.found]
    return Uses(walk.found, tuple(unclear), tuple(n for n in walk.numbers if n not in walk.found))


def _scores(graph: gs.Graph) -> frozenset[str]:
    """Values that become part of scores by moves and arithmetic alone."""
    found: set[str] = set()
    stack = [n.inputs[i] for n in graph.nodes for i in SCORED.get((n.domain or "", n.op), ()) if i < len(n.inputs)]
    while stack:
        tensor = stack.pop()
        if tensor.name in found or not tensor.inputs:
            continue
        found.add(tensor.name)
        if tensor.inputs[0].op not in NO_SCORES:
            stack += tensor.inputs[0].inputs
    return frozenset(found)


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
        return _picked(node, met, walk)
    if node.op in ANGLES:
        walk.tables |= carried
        return _Value(max(kind, POSITIONAL))
    if kind == CONSTANT:
        return _unsettled(node, met, carried, walk)
    raw = any(v.raw for v in met) and all(v.raw or v.kind == CONSTANT for v in met)
    if raw and _few(carried, walk) and node.op in MULTIPLIES | ADDS:
        walk.tables |= carried
        return _Value(kind, raw=True)
    if kind == POSITIONAL and not any(_summed(node, value, walk) for value in met):
        return replace(_positional(node, met, carried, walk), raw=raw and not carried)
    _note_singles(node, met, walk)
    for value in met:
        walk.settle(value.carried, _role(node, value, walk), node)
    return _Value(SIGNAL, raw=raw and not carried)


def _met(node: gs.Node, row: Row, values: dict[str, _Value], walk: _Walk) -> list[_Value]:
    """The operands that are data; those that are weights by role are settled."""
    met: list[_Value] = []
    for i, tensor in enumerate(node.inputs):
        if tensor.is_empty() or i in row.numbers:
            continue
        if tensor.name in walk.singles:
            met.append(_Value(CONSTANT, singles=frozenset({tensor.name})))
        elif tensor.name not in walk.constants:
            met.append(replace(values.get(tensor.name) or _constant(tensor), index=i, shape=_known(tensor)))
        elif i in row.fixed:
            walk.tables.add(tensor.name)
        elif i in row.gains or i in row.biases:
            walk.settle(frozenset({tensor.name}), "gain" if i in row.gains else "bias", node)
        else:
            walk.met.add(tensor.name)
            met.append(_Value(CONSTANT, frozenset({tensor.name}), index=i, shape=tensor.values.shape))
    return met


def _known(tensor: gs.Tensor) -> tuple[int, ...] | None:
    shape = tensor.shape
    return tuple(shape) if shape is not None and all(isinstance(d, int) for d in shape) else None


def _summed(node: gs.Node, value: _Value, walk: _Walk) -> bool:
    """Whether a constant is multiplied and summed over; where its shape is not known, a vector is a factor."""
    if node.op not in TABLE or value.kind != CONSTANT or not value.carried:
        return False
    if value.shape is None:
        return value.index in TABLE[node.op][1] and not walk.is_vector(value.carried)
    return summed(node, value.index, value.shape) > 1


def _positional(node: gs.Node, met: list[_Value], carried: frozenset[str], walk: _Walk) -> _Value:
    """Constants beside positions, distances and masks: they wait for what becomes of the result."""
    fresh = frozenset().union(*(v.carried for v in met if v.kind == CONSTANT))
    walk.waiting |= fresh
    whole = {name for name in fresh if _counts(walk.values(name))}
    walk.tables |= whole  # positions and masks themselves
    if (node.op in MULTIPLIES or node.op in TABLE) and node.outputs[0].name in walk.scores:  # slopes (ALiBi)
        walk.tables |= carried
        return _Value(POSITIONAL)
    return _Value(POSITIONAL, frozenset() if node.op in DECIDES or _to_integers(node) else carried - whole)


def _counts(values: np.ndarray[Any, Any]) -> bool:
    """Whole numbers, and not all the same."""
    return bool((values == np.rint(values)).all() and (values != values.flat[0]).any())


def _to_integers(node: gs.Node) -> bool:
    return node.op == "Cast" and node.attrs.get("to") not in FLOATS


def _note_singles(node: gs.Node, met: list[_Value], walk: _Walk) -> None:
    """Single numbers beside a signal, but for scales of attention and of what is rounded on the way."""
    rounded = any(tensor.inputs and tensor.inputs[0].op == "DynamicQuantizeLinear" for tensor in node.inputs)
    if node.op not in MULTIPLIES | ADDS or rounded or node.outputs[0].name in walk.scores:
        return
    for name in sorted(frozenset().union(*(v.singles for v in met))):
        if node.op in MULTIPLIES or abs(float(walk.values(name).reshape(-1)[0])) >= EPSILON:
            walk.numbers[name] = None


def _unsettled(node: gs.Node, met: list[_Value], carried: frozenset[str], walk: _Walk) -> _Value:
    """Constants among themselves; what multiplies the integers of a weight are its scales."""
    quantised = any(v.quantised for v in met)
    if quantised and node.op in MULTIPLIES:
        walk.settle(carried, "gain", node)
        carried = frozenset()
    singles = frozenset().union(*(v.singles for v in met))
    if node.op in LEARNT:
        carried, singles = carried | singles, frozenset()
    shifted = any(v.shifted for v in met) or (node.op in ADDS and len(met) > 1)
    return _Value(CONSTANT, carried, shifted, quantised=quantised, singles=singles)


def _few(carried: frozenset[str], walk: _Walk) -> bool:
    return all(walk.values(n).size <= IMAGE_CHANNELS for n in carried)


def _picked(node: gs.Node, met: list[_Value], walk: _Walk) -> _Value:
    """Rows picked from a weight are an embedding; from a table, a table."""
    fresh = frozenset().union(*(v.carried for v in met if v.kind == CONSTANT))
    walk.settle(fresh, "matrix", node)
    if fresh or node.op == "OneHot" or (met and met[0].quantised):
        return _Value(SIGNAL)
    kinds = [v.kind for v in met] or [CONSTANT]
    kind = SIGNAL if kinds[0] == SIGNAL else max(POSITIONAL if POSITIONAL in kinds else CONSTANT, kinds[0])
    return _Value(kind, met[0].carried if met else frozenset())


def _role(node: gs.Node, value: _Value, walk: _Walk) -> str:
    if not walk.is_vector(value.carried):
        return "matrix"
    if node.op in MULTIPLIES:
        return "bias" if value.shifted else "gain"
    return "bias" if node.op in ADDS else "matrix"
