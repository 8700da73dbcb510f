"""Neuron tracing: run the graph once on ids instead of numbers.

Shapes are concrete (one tiny batch), integers and masks are computed for real, and every other value carries, per
axis, the neurons it varies over. What each operator does to them is one row of ``flows.TABLE``; an operator without
a row that meets a traced value is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.ids import Factors, IdSpace
from graphclone.anatomy.parts import Ids
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.recipes import Recipe, held

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
KNOWN_UP_TO = 1 << 20  # elements: larger values are never computed for real


@dataclass(frozen=True)
class Value:
    """What the trace knows of a tensor: its concrete shape, the factors of each axis, and its numbers where they are
    independent of the weights. ``static``: the same whatever is fed. ``copies``: its ids only count repetitions (a mask
    spread over the hidden size), so its numbers may still be computed with."""

    shape: Shape
    factors: tuple[Factors, ...]
    data: Array | None = None
    static: bool = False
    copies: bool = False

    @property
    def labelled(self) -> bool:
        """Does it vary over any neurons?"""
        return any(self.factors)

    @property
    def numeric(self) -> bool:
        """Can it be computed with: known, not large, and no weight?"""
        return self.data is not None and self.data.size <= KNOWN_UP_TO and (self.copies or not self.labelled)

    def axis(self, index: int) -> Factors:
        """The factors of one axis."""
        return self.factors[index]


def plain(shape: Sequence[int], data: Array | None = None, static: bool = False) -> Value:
    """A value without neurons."""
    return Value(tuple(shape), tuple(() for _ in shape), data, static)


@dataclass(frozen=True)
class Slot:
    """One axis of one tensor (initializer, input, or table computed from constants) as one place uses it."""

    tensor: str
    axis: int
    start: int
    size: int
    kind: str  # weight, input, table
    use: tuple[str, int] | None  # node and input index; None where all uses share the ids


@dataclass(frozen=True)
class Note:
    """Something the block finder wants to know: a contraction, a reduction over neurons, a softmax."""

    kind: str
    node: gs.Node
    inputs: tuple[Value, ...]
    axis: int = -1


@dataclass(frozen=True)
class Pin:
    """Neurons that must stay."""

    ids: Ids
    reason: str


@dataclass(frozen=True)
class Count:
    """An attribute that counts neurons: positions alive along an axis of ``full``; ``place`` in a list of such."""

    attribute: str
    factors: Factors
    full: int
    place: int | None = None


@dataclass
class Trace:
    """The record of one run on ids."""

    model: Model
    ids: IdSpace = field(default_factory=IdSpace)
    values: dict[str, Value] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    constants: dict[tuple[str, int] | str, Value] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    counts: dict[str, list[Count]] = field(default_factory=dict)

    def label(self, tensor: str, value: Value, kind: str, use: tuple[str, int] | None, axes: Sequence[int]) -> Value:
        """Give each of ``axes`` longer than 1 its own ids."""
        factors = list(value.factors)
        for axis in axes:
            size = value.shape[axis]
            if size > 1:
                ids = self.ids.fresh(size)
                self.slots.append(Slot(tensor, axis, int(ids[0]), size, kind, use))
                factors[axis] = (ids,)
        return Value(value.shape, tuple(factors), value.data, value.static)

    def pin(self, factors: Factors, reason: str) -> None:
        """These neurons cannot be cut, and why."""
        self.pins.extend(Pin(f, reason) for f in factors)

    def note(self, kind: str, node: gs.Node, inputs: Sequence[Value], axis: int = -1) -> None:
        """Remember something for the block finder."""
        self.notes.append(Note(kind, node, tuple(inputs), axis))

    def count(self, node: gs.Node, attribute: str, factors: Factors, full: int, place: int | None = None) -> None:
        """An attribute of a node says how many neurons an axis has: surgery rewrites it."""
        if attribute in node.attrs:
            self.counts.setdefault(node_key(node), []).append(Count(attribute, factors, full, place))

    def tie(self, node: gs.Node, first: Factors, second: Factors) -> None:
        """Two aligned axes: one neuron a position. What has no counterpart meets plain numbers and stays whole."""
        for left in self.ids.same(first, second):
            self.pin(left, f"meets values without neurons at {describe(node)}")

    def input(self, node: gs.Node, index: int) -> Value | None:
        """The value that a node reads; an initializer as this use sees it."""
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return None
        tensor = node.inputs[index]
        if not isinstance(tensor, gs.Constant):
            try:
                return self.values[tensor.name]
            except KeyError:
                raise UnsupportedGraph(
                    f"{describe(node)}: reads {tensor.name!r}, which no node before it makes"
                ) from None
        use = None if tensor.name in self.shared else (node_key(node), index)
        key = tensor.name if use is None else use
        if key not in self.constants:
            stored = held(tensor)
            value = plain(stored.shape, None if isinstance(stored, Recipe) else stored, static=True)
            weighty = is_weight(stored) or node.op == "DequantizeLinear"  # a bias may be 32 bits wide
            axes = range(len(value.shape)) if weighty else ()
            self.constants[key] = self.label(tensor.name, value, "weight", use, axes)
        return self.constants[key]


def is_weight(values: Array | Recipe) -> bool:
    """Floating point, or 8 bits wide (quantised): what may hold neurons. Wider integers count and index."""
    return values.dtype.kind in "fV" or values.dtype.itemsize == 1 and values.dtype.kind in "iu"


def node_key(node: gs.Node) -> str:
    """A node's identity: its first output's name, as node names may be empty or repeat."""
    return str(next(t.name for t in node.outputs if t.name))


def describe(node: gs.Node) -> str:
    """A node as an error names it."""
    return f"{node.domain + '.' if node.domain else ''}{node.op} node {node.name or node_key(node)!r}"


Flow = Callable[[Trace, gs.Node, list[Value | None]], list[Value]]


def opset(model: Model, domain: str = "") -> int:
    """The model's version of an operator set."""
    for imported in model.graph.import_domains or []:
        if (imported.domain or "").replace("ai.onnx", "") == domain or imported.domain == domain:
            return int(imported.version)
    return int(model.graph.opset) if domain == "" else 1


__all__ = ["Flow", "Note", "Pin", "Slot", "Trace", "Value", "describe", "node_key", "opset", "plain"]
