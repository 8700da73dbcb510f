"""Products of an activation with a weight, wherever the weight hides (behind Transpose, Cast, Identity)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Note, Slot, Trace, Value, node_key


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
    conv = note.node.op.startswith("Conv")
    if len(weight.shape) < 2:
        return None
    inner, outer = _weight_axes(note.node, conv, operand)
    read, written = index.of(weight.axis(inner)), index.of(weight.axis(outer))
    slot = read or written
    if slot is None:
        return None
    input_axis = 1 - len(activation.shape) if conv else (-1 if operand == 0 else -2)
    output = node_key(note.node)
    return Projection(
        node=note.node,
        weight=slot.tensor,
        in_axis=read.axis if read else -1,
        out_axis=written.axis if written else -1,
        reads=tuple(found.on(weight.axis(inner))),
        writes=tuple(found.on(weight.axis(outer))),
        input=note.node.inputs[operand].name,
        input_factors=activation.axis(input_axis),
        input_axis=input_axis,
        output=output,
        output_axis=1 - len(activation.shape) if conv else (-1 if operand == 0 else -2),
        width_out=weight.shape[outer],
    )


def _weight_axes(node: gs.Node, conv: bool, operand: int) -> tuple[int, int]:
    """(read, written) axes of the weight as the product sees it (Gemm's transpositions are undone in the note)."""
    if conv:
        return (0, 1) if node.op == "ConvTranspose" else (1, 0)
    return (-2, -1) if operand == 0 else (-1, -2)


def axis_of(value: Value, found: Grouping, group: Group) -> int | None:
    """The axis (negative) along which a value varies over a group."""
    for axis, factors in enumerate(value.factors):
        if group in found.on(factors):
            return axis - len(value.factors)
    return None
