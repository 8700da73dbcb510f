"""Rewrites constants that hold the number of neurons in a sum: a mean may be written as a sum divided by its length.

JAX's mean is ReduceSum(x) / d, and a root mean square may be ReduceL2(x) * d^-1/2. The value that is divided carries no
neuron any more, so the number is found from the sum, not from the stream. A sum that nothing divides stays one. An
unbiased variance is a sum divided by d - 1, or a mean times d divided by d - 1 (torch's dynamo exporter).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.cut import Cut
from graphclone.surgery.resizer import Edit

MEAN = "ReduceMean"
SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "Einsum")
PASSED = ("Cast", "Identity", "Sqrt", "Reshape", "Squeeze", "Unsqueeze")  # between a sum and what divides it
POWERS = (1.0, -1.0, 0.5, -0.5)  # of the length: divided or multiplied by, before a root or behind it
SAME = 4e-3  # relative: the constant may have been rounded to bfloat16


def divisor(cut: Cut, node: gs.Node, place: int) -> float | None:
    """What an operand of a Mul or Div becomes that is a power of the length of a sum that is cut; None for others."""
    number = _number(cut, node, place)
    if number is None:
        return None
    reduction = _sum_behind(cut, node.inputs[1 - place]) or _sum_ahead(node.outputs[0])
    if reduction is None:
        return _corrected(cut, node, place)
    full, kept = _length(cut, reduction)
    if node.op == "Div" and kept != full and _is(cut, node, place, full - 1) and not _is(cut, node, place, full):
        return float(kept - 1)
    power = next((p for p in POWERS if abs(number - full**p) <= SAME * full**p), None)
    return None if kept == full or power is None else float(kept**power)


def _corrected(cut: Cut, node: gs.Node, place: int) -> float | None:
    """What an operand becomes that makes a mean an unbiased one: d and d - 1, or their quotient."""
    ahead = node.op == "Mul"
    first = node if ahead else _behind(node.inputs[1 - place])
    mean = next((m for t in first.inputs if (m := _behind(t)) is not None and m.op == MEAN), None) if first else None
    full, kept = _length(cut, mean) if mean is not None else (1, 1)
    if first is None or first.op != "Mul" or kept == full:
        return None
    if ahead and _is(cut, node, place, full / (full - 1)) and not _is(cut, node, place, 1.0):
        return kept / max(kept - 1, 1)
    multiplied = any(_is(cut, first, k, full) for k in range(2))
    by = _divided_by(cut, first, full - 1) if ahead else _is(cut, node, place, full - 1)
    return float(kept if ahead else kept - 1) if multiplied and by else None


def _divided_by(cut: Cut, node: gs.Node, number: float) -> bool:
    """Is what a node makes divided by a number next?"""
    return any(
        (reader.op == "Div" and reader.inputs[0] is tensor and _is(cut, reader, 1, number))
        or (reader.op in PASSED and _divided_by(cut, reader, number))
        for tensor in node.outputs
        for reader in tensor.outputs
    )


def _behind(tensor: gs.Tensor) -> gs.Node | None:
    """What makes a value, moves apart."""
    while tensor.inputs and tensor.inputs[0].op in PASSED:
        tensor = tensor.inputs[0].inputs[0]
    return tensor.inputs[0] if tensor.inputs else None


def _is(cut: Cut, node: gs.Node, place: int, number: float) -> bool:
    """Does an operand hold a number, rounded once?"""
    held = cut.trace.input(node, place)
    data = held.data if held is not None and held.static else None
    return data is not None and data.size == 1 and bool((data == np.asarray(number, data.dtype)).all())


def added(edit: Edit) -> None:
    """A number added to a sum before it is made a mean (an epsilon times the length) is a share of the length too."""
    for place in range(2):
        number, reduction = _number(edit.cut, edit.parent, place), _sum_behind(edit.cut, edit.parent.inputs[1 - place])
        if number is None or reduction is None:
            continue
        for reader in edit.parent.outputs[0].outputs:
            if reader.op in ("Mul", "Div") and any(divisor(edit.cut, reader, k) is not None for k in range(2)):
                full, kept = _length(edit.cut, reduction)
                data = edit.operand(place)
                edit.replace(place, np.full(data.shape, number * kept / full).astype(data.dtype))
                return


def mean_by_a_column(edit: Edit) -> None:
    """A product with a column of 1/d is a mean of d. Raises UnsupportedGraph where that is cut."""
    column = edit.cut.trace.input(edit.parent, 1)
    length = _column(edit.cut, edit.parent)
    if column is None or column.data is None or length is None or length[0] == length[1]:
        return
    full, number = length[0], float(column.data.reshape(-1)[0])
    if full > 1 and abs(number * full - 1) <= SAME:
        raise UnsupportedGraph(
            f"{describe(edit.node)}: a mean over {full} written as a product with a column of 1/{full} "
            f"{list(column.shape)}, which a cut would leave a share: export it as ReduceMean"
        )


def _number(cut: Cut, node: gs.Node, place: int) -> float | None:
    held = cut.trace.input(node, place)
    data = held.data if held is not None and held.static else None
    return None if data is None or data.size != 1 or data.dtype.kind not in "fV" else float(data.reshape(-1)[0])


def _sum_behind(cut: Cut, tensor: gs.Tensor) -> gs.Node | None:
    while tensor.inputs:
        maker = tensor.inputs[0]
        places = [k for k in range(2) if _number(cut, maker, k) is not None] if maker.op == "Add" else []
        if maker.op not in PASSED and not places:
            ones = maker.op == "MatMul" and _column(cut, maker) is not None
            return maker if maker.op in SUMS or ones else None
        tensor = maker.inputs[1 - places[0] if places else 0]
    return None


def _sum_ahead(tensor: gs.Tensor) -> gs.Node | None:
    """A sum that alone reads what a number has divided already."""
    while len(tensor.outputs) == 1:
        reader = tensor.outputs[0]
        if reader.op in SUMS[:-1]:
            return reader
        if reader.op not in ("Cast", "Identity"):
            return None
        tensor = reader.outputs[0]
    return None


def _column(cut: Cut, node: gs.Node) -> tuple[int, int] | None:
    """The length, and what is kept of it, of a constant column of equal numbers that a product sums with."""
    column, value = cut.trace.input(node, 1), cut.trace.input(node, 0)
    data = column.data if column is not None and column.static and column.shape[1:] == (1,) else None
    if column is None or value is None or data is None or (data != data[0]).any():
        return None
    return column.shape[0], cut.size(column.axis(0), column.shape[0])


def _length(cut: Cut, reduction: gs.Node) -> tuple[int, int]:
    """Neurons that a sum goes over, and how many of them are kept."""
    if reduction.op == "MatMul":
        return _column(cut, reduction) or (1, 1)
    key = node_key(reduction)
    notes = [n for n in cut.trace.notes if n.kind == "reduction" and node_key(n.node) == key]
    axes = [(note.inputs[0].axis(note.axis), note.inputs[0].shape[note.axis]) for note in notes]
    return math.prod(full for _, full in axes), math.prod(cut.size(factors, full) for factors, full in axes)
