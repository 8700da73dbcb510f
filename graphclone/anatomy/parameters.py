"""Counts a model's trained parameters: weights, but no scales of integers, tables of angles or single numbers.

SmolLM2-135M has 134,515,008 of them however it is exported, and as many where they are stored in 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Grouping
from graphclone.anatomy.trace import Trace, is_weight
from graphclone.recipes import held

ANGLES = ("Sin", "Cos")
ROTARY = {  # operators that are handed their tables: (domain, op) -> inputs that hold cosines and sines
    ("com.microsoft", "RotaryEmbedding"): (2, 3),
    ("com.microsoft", "GroupQueryAttention"): (7, 8),
    ("", "RotaryEmbedding"): (1, 2),
}
SETTINGS = {"DequantizeLinear": 1, "QuantizeLinear": 1, "MatMulInteger": 2}  # operator -> inputs from this one on


def parameters_by_type(found: Grouping) -> dict[str, int]:
    """Elements of the initializers that are trained, by the type they are stored in; a tied one counts once."""
    counts: dict[str, int] = {}
    for array in trained(found).values():
        counts[array.dtype.name] = counts.get(array.dtype.name, 0) + array.size
    return counts


def trained(found: Grouping) -> dict[str, Any]:
    """The initializers that are trained, by name: arrays, or recipes of such."""
    trace = found.trace
    left_out = set(_tables(trace)) | set(_scales(trace))
    stand_for_numbers = {n.inputs[0].name for n in trace.model.graph.nodes if n.op == "DequantizeLinear"}
    held_by = {t.name: held(t) for n in trace.model.graph.nodes for t in n.inputs if isinstance(t, gs.Constant)}
    return {
        name: array
        for name, array in sorted(held_by.items())
        if array.size > 1 and (is_weight(array) or name in stand_for_numbers) and name not in left_out
    }


def _tables(trace: Trace) -> Iterator[str]:
    """What sines and cosines are computed from, or were."""
    for node in trace.model.graph.nodes:
        for position in ROTARY.get((node.domain or "", node.op), ()):
            if position < len(node.inputs) and isinstance(node.inputs[position], gs.Constant):
                yield node.inputs[position].name
        if node.op in ANGLES:
            yield from _sources(trace, node.inputs[0])


def _sources(trace: Trace, angle: gs.Tensor) -> list[str]:
    """The initializers that an angle is made of; none where activations come in."""
    names: list[str] = []
    stack, seen = [angle], {angle.name}
    while stack:
        tensor = stack.pop()
        value = trace.values.get(tensor.name)
        if isinstance(tensor, gs.Constant):
            names.append(tensor.name)
        elif value is not None and value.data is not None and not value.static:
            continue  # positions
        elif not tensor.inputs:
            return []
        else:
            fresh = [t for t in tensor.inputs[0].inputs if t.name not in seen]
            seen |= {t.name for t in fresh}
            stack += fresh
    return names


def _scales(trace: Trace) -> Iterator[str]:
    """Scales and zero points of weights that are stored as integers."""
    for node in trace.model.graph.nodes:
        if node.op in SETTINGS:
            yield from (t.name for t in node.inputs[SETTINGS[node.op] :])
        elif node.op in ("Mul", "Sub") and any(_is_cast_integer(t) or _is_scale(t) for t in node.inputs):
            yield from (t.name for t in node.inputs if isinstance(t, gs.Constant))


def _is_cast_integer(tensor: gs.Tensor) -> bool:
    """Bytes that became numbers, perhaps moved to a zero point."""
    while tensor.inputs and tensor.inputs[0].op in ("Cast", "Sub", "Transpose"):
        tensor = tensor.inputs[0].inputs[0]
    return isinstance(tensor, gs.Constant) and tensor.dtype.itemsize == 1


def _is_scale(tensor: gs.Tensor) -> bool:
    """The scale of activations that are rounded as they come; a weight's scales multiply it."""
    return bool(tensor.inputs) and tensor.inputs[0].op == "DynamicQuantizeLinear"
