"""Finds the products of an activation with a weight, wherever the weight hides (behind Transpose, Cast, Identity)."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Note, Slot, Trace, Value, node_key

STEPS = 12  # between a stored weight and its product


@dataclass(frozen=True, eq=False)
class Projection:
    """One product with a weight: what it reads and writes, by groups and by tensor."""

    node: gs.Node
    weight: str
    in_axis: int
    out_axis: int
    reads: tuple[Group, ...]
    writes: tuple[Group, ...]
    input: str
    input_factors: Factors
    input_axis: int  # of the activation, negative
    output: str
    output_axis: int
    width_out: int


class SlotIndex:
    """From an id as a weight was labelled back to the axis it labels."""

    def __init__(self, trace: Trace) -> None:
        self.slots = trace.slots
        self.starts = [s.start for s in trace.slots]

    def of(self, factors: Factors) -> Slot | None:
        """The slot whose ids an axis of a (moved) weight still shows."""
        if not factors:
            return None
        slot = self.slots[bisect_right(self.starts, int(factors[0][0])) - 1]
        return slot if slot.start <= int(factors[0][0]) < slot.start + slot.size else None


def projections(found: Grouping) -> list[Projection]:
    """All products with a weight, in graph order."""
    index = SlotIndex(found.trace)
    return [p for n in found.trace.notes if n.kind == "product" and (p := _projection(found, index, n)) is not None]


def _projection(found: Grouping, index: SlotIndex, note: Note) -> Projection | None:
    if len(note.inputs) != 2 or note.inputs[0].static == note.inputs[1].static:
        return None
    a, b = note.inputs
    weight, activation, operand = (b, a, 0) if b.static else (a, b, 1)
    if len(weight.shape) < 2:
        return None
    axes = _axes(note.node, activation, operand)
    if axes is None:
        return None
    inner, outer = axes.read[0], axes.written[-1]
    read, written = index.of(weight.axis(inner)), index.of(weight.axis(outer))
    slot = read or written
    if slot is None:
        return None
    return Projection(
        node=note.node,
        weight=slot.tensor,
        in_axis=read.axis if read else -1,
        out_axis=written.axis if written else -1,
        reads=_groups(found, weight, axes.read),
        writes=_groups(found, weight, axes.written),
        input=note.node.inputs[operand].name,
        input_factors=activation.axis(axes.input),
        input_axis=axes.input,
        output=node_key(note.node),
        output_axis=axes.output,
        width_out=math.prod(weight.shape[axis] for axis in axes.written),
    )


@dataclass(frozen=True)
class _Axes:
    """Axes of the weight as the product sees it (Gemm's transpositions are undone in the note); of the activation that
    which meets the first axis read, of the output that which the last axis written becomes, both negative."""

    read: tuple[int, ...]
    written: tuple[int, ...]
    input: int
    output: int


def _axes(node: gs.Node, activation: Value, operand: int) -> _Axes | None:
    """``operand``: the activation's place. None where nothing is contracted, or nothing written."""
    if node.op == "Einsum":
        return _letters(str(node.attrs["equation"]), operand)
    if node.op.startswith("Conv"):
        channels = 1 - len(activation.shape)
        read, written = (0, 1) if node.op == "ConvTranspose" else (1, 0)
        return _Axes((read,), (written,), channels, channels)
    return _Axes((-2,), (-1,), -1, -1) if operand == 0 else _Axes((-1,), (-2,), -2, -2)


def _letters(equation: str, operand: int) -> _Axes | None:
    """Heads and their dimensions may be two axes of a weight (Keras, JAX): heads come first in what is read.

    >>> _letters("bthk,hkd->btd", 0)
    _Axes(read=(0, 1), written=(2,), input=-2, output=-1)
    """
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    given, weight = terms[operand], terms[1 - operand]
    read = [letter for letter in given if letter in weight and letter not in out]
    written = [letter for letter in weight if letter in out and letter not in given]
    if not read or not written:
        return None
    return _Axes(
        tuple(weight.index(letter) for letter in read),
        tuple(weight.index(letter) for letter in written),
        given.index(read[0]) - len(given),
        out.index(written[-1]) - len(out),
    )


def _groups(found: Grouping, weight: Value, axes: tuple[int, ...]) -> tuple[Group, ...]:
    return tuple(dict.fromkeys(group for axis in axes for group in found.on(weight.axis(axis))))


def axis_of(value: Value, found: Grouping, group: Group) -> int | None:
    """The axis (negative) along which a value varies over a group."""
    for axis, factors in enumerate(value.factors):
        if group in found.on(factors):
            return axis - len(value.factors)
    return None


def scalable(p: Projection) -> bool:
    """Whether a number can be multiplied into a weight: integers take none, what multiplies them before the product
    does."""
    node = p.node
    for _ in range(STEPS):
        constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
        if node.op == "Mul" and any(not _whole(t) for t in constants):
            return True
        held = next((t for t in constants if t.name == p.weight), None)
        if held is not None:
            return not _whole(held)
        above = [t.inputs[0] for t in node.inputs if t.inputs and t.name != p.input]
        if not above:
            return True
        node = above[0]
    return True


def _whole(tensor: gs.Constant) -> bool:
    return "int" in str(tensor.dtype)
