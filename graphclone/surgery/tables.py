"""Cuts tables that the graph computes from constants (rotary frequencies, slopes), by a Gather behind them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.surgery.cut import Cut


def pick_from_tables(model: Model, cut: Cut) -> list[str]:
    """Put a Gather behind every computed table that has to be cut, in place; names of its indices.

    The picked table keeps the name, so that all that follows finds what it expects under it.
    """
    names: list[str] = []
    tensors = model.graph.tensors()
    for slot in cut.trace.slots:
        tensor = tensors.get(slot.tensor)
        if slot.kind != "table" or not isinstance(tensor, gs.Variable) or not tensor.inputs:
            continue
        taken = cut.take_slot(slot)
        if taken is None:
            continue
        maker = tensor.inputs[0]
        stem = _free(f"{slot.tensor}_axis{slot.axis}", cut)
        whole = gs.Variable(f"{stem}_whole", tensor.dtype)
        maker.outputs = [whole if t is tensor else t for t in maker.outputs]
        indices = gs.Constant(f"{stem}_kept", np.asarray(taken, np.int64))
        pick = gs.Node("Gather", f"{stem}_pick", {"axis": slot.axis}, [whole, indices], [tensor], domain="")
        model.graph.nodes.insert(model.graph.nodes.index(maker) + 1, pick)
        names.append(indices.name)
    return names


def _free(name: str, cut: Cut) -> str:
    """A parent may be a clone itself, and hold such names."""
    while any(known.startswith(name) for known in cut.names if known.endswith(("_whole", "_kept"))):
        name += "_"
    return name
