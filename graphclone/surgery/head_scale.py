"""The scale of attention scores: a root of the width of a head, which follows the width.

A graph writes 1/sqrt(d) in many places: a factor on the queries, the same on queries and keys as two fourth roots, a
divisor of the scores, an attribute. Where it is computed from shapes, or left to an operator's default, it follows by
itself; constants and attributes are rewritten here, so that a clone is what the architecture's own configuration gives.
A factor that is no root of d is the model's own (Gemma 2 may scale by another number) and stays.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import Value, node_key
from graphclone.surgery.cut import Cut
from graphclone.surgery.resizer import Edit

POWERS = (0.5, -0.5, 0.25, -0.25)
SAME = 4e-3  # relative: the constant may have been rounded to bfloat16
PASSED = {  # between the scores and their scale, behind a mask too (CodeGen) -> inputs in which the scores may come
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), (0,)),
    "Add": (0, 1),
    "Where": (1, 2),
}
STEPS = 8  # of these, at most
ATTRIBUTES = ("scale", "alpha")


def rooted(number: float, full: int, kept: int) -> float | None:
    """What a root of ``full`` becomes where ``kept`` stay; None where nothing is cut, or for a number that is no root.

    >>> rooted(0.125, 64, 16), rooted(8.0, 64, 16), rooted(0.1, 64, 16)
    (0.25, 4.0, None)
    """
    power = _power(number, full, kept)
    return None if power is None else float(kept**power)


def attention_scale(edit: Edit) -> None:
    """A Mul or Div of queries, keys or scores by a constant."""
    for place in range(2):
        held = edit.after(place)
        data = held.data if held is not None and held.static else None
        if data is None or data.size != 1 or data.dtype.kind not in "fV":
            continue
        width = _width(edit.cut, edit.parent.inputs[1 - place], edit.before(1 - place))
        scaled = rooted(float(data.reshape(-1)[0]), *width) if width else None
        if scaled is not None:
            edit.replace(place, np.full(data.shape, scaled).astype(data.dtype))
            return


def attribute_scale(edit: Edit) -> None:
    """``scale`` of a fused attention, ``alpha`` of a product of queries and keys that took the scale in."""
    key = node_key(edit.parent)
    note = next((n for n in edit.cut.trace.notes if n.kind == "attention" and node_key(n.node) == key), None)
    width = _cut(edit.cut, note.inputs[0], 3) if note is not None else _scores(edit.cut).get(key)
    for name in ATTRIBUTES if width else ():
        if name in edit.node.attrs:
            scaled = rooted(float(edit.node.attrs[name]), *width) if width else None
            if scaled is not None:
                edit.node.attrs[name] = scaled


def powers_of_width(cut: Cut) -> dict[str, float]:
    """Node -> the power of a head's width that it multiplies scores by: -1/2 where they are divided by its root, twice
    -1/4 where queries and keys are each. Of heads that are cut; a factor that is no root is left out."""
    found = {}
    for node in cut.trace.model.graph.nodes:
        if node.op in ("Mul", "Div"):
            for place in range(2):
                held, other = cut.trace.input(node, place), cut.trace.input(node, 1 - place)
                known = held is not None and held.data is not None and held.data.size == 1
                if held is None or other is None or held.data is None or not known or held.data.dtype.kind not in "fV":
                    continue
                width = _width(cut, node.inputs[1 - place], other)
                power = _power(float(held.data.reshape(-1)[0]), *width) if width else None
                if power is not None:
                    found[node_key(node)] = power if node.op == "Mul" else -power
                    break
    for note in cut.trace.notes:
        if note.kind == "attention" or (note.kind == "product" and node_key(note.node) in _scores(cut)):
            width = _cut(cut, note.inputs[0], 3) if note.kind == "attention" else _scores(cut)[node_key(note.node)]
            given = [float(note.node.attrs[n]) for n in ATTRIBUTES if float(note.node.attrs.get(n, 0.0)) not in (0, 1)]
            power = _power(given[0], *width) if given else -0.5 if note.kind == "attention" else None
            if power is not None and width[0] != width[1]:
                found[node_key(note.node)] = power
    return found


def _power(number: float, full: int, kept: int) -> float | None:
    power = next((p for p in POWERS if abs(number - full**p) <= SAME * full**p), None)
    return None if kept == full else power


def _width(cut: Cut, tensor: gs.Tensor, value: Value) -> tuple[int, int] | None:
    """(width of a head, what is kept of it), for queries, keys or their product."""
    scores, behind = _scores(cut), [tensor]
    for _ in range(STEPS):
        known = next((scores[t.name] for t in behind if t.name in scores), None)
        if known is not None:
            return known
        makers = [t.inputs[0] for t in behind if t.inputs]
        behind = [n.inputs[k] for n in makers for k in PASSED.get(n.op, ())]
    for axis in range(len(value.shape)):
        if any(g.kind == "qk_dim" for g in cut.found.on(value.axis(axis))):
            return _of_head(cut, value, axis)
    return None


def _of_head(cut: Cut, value: Value, axis: int) -> tuple[int, int] | None:
    """An axis may hold heads x dimensions still: what one head has of it."""
    full, kept = value.shape[axis], cut.size(value.axis(axis), value.shape[axis])
    heads = [g for g in cut.found.on(value.axis(axis)) if g.kind in ("head", "kv_head", "group")]
    for group in heads:
        whole, left = group.size, int(cut.alive[group.classes].sum())
        full, kept = full // whole, kept // left
    return full, kept


def _scores(cut: Cut) -> dict[str, tuple[int, int]]:
    """Products of queries and keys -> (width of a head, what is kept of it)."""
    found = {}
    for note in cut.trace.notes:
        if note.kind == "product" and not any(v.static or v.data is not None for v in note.inputs):
            queries = note.inputs[0]
            if any(g.kind == "qk_dim" for g in cut.found.on(queries.axis(-1))):
                found[node_key(note.node)] = _cut(cut, queries, -1)
    return found


def _cut(cut: Cut, value: Value, axis: int) -> tuple[int, int]:
    return value.shape[axis], cut.size(value.axis(axis), value.shape[axis])
