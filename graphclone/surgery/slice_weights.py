"""Width: every initializer is np.take along each traced axis, use by use; equal slices are one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Slot, node_key
from graphclone.errors import BadModel, UnsupportedGraph
from graphclone.graph import Model
from graphclone.surgery.cut import Cut

Array = np.ndarray[Any, Any]
Use = tuple[str, int]  # node key, input index


@dataclass
class Slices:
    """What became of the parent's initializers; ``claims`` goes into the clone's metadata."""

    takes: list[list[int]] = field(default_factory=list)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()  # names in the parent
    _known: dict[bytes, int] = field(default_factory=dict)

    def index(self, take: Ids) -> int:
        """The number of an index list in ``takes``: the residual's is shared by hundreds of axes."""
        key = take.tobytes()
        if key not in self._known:
            self._known[key] = len(self.takes)
            self.takes.append(take.tolist())
        return self._known[key]


def slice_weights(model: Model, cut: Cut, scales: Mapping[Use, float]) -> Slices:
    """Replace the initializers of ``model`` by their slices, in place."""
    found = Slices(reserved=cut.names)
    slots: dict[tuple[str, Use | None], dict[int, Slot]] = {}
    for slot in cut.trace.slots:
        slots.setdefault((slot.tensor, slot.use), {})[slot.axis] = slot
    _refuse_tables(model, cut)
    made: dict[tuple[str, bytes], gs.Constant] = {}
    for node in model.graph.nodes:
        for position, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                use = (node_key(node), position)
                axes = slots.get((tensor.name, use), slots.get((tensor.name, None), {}))
                scale = scales.get(use, 1.0)
                taken = {a: t for a, s in axes.items() if (t := cut.take_slot(s)) is not None}
                node.inputs[position] = _sliced(tensor, taken, scale, made, found)
    for tensor in model.graph.inputs:
        for axis, slot in slots.get((tensor.name, None), {}).items():
            shape = list(tensor.shape)
            shape[axis] = cut.size((np.arange(slot.start, slot.start + slot.size),), slot.size)
            tensor.shape = shape
    return found


def _sliced(
    tensor: gs.Constant, taken: dict[int, Ids], scale: float, made: dict[tuple[str, bytes], gs.Constant], found: Slices
) -> gs.Constant:
    key = (tensor.name, repr((sorted((a, t.tobytes()) for a, t in taken.items()), scale)).encode())
    if key in made:
        return made[key]
    values = tensor.values
    for axis, take in taken.items():
        values = np.take(values, take, axis=axis)
    if scale != 1.0:
        values = (values.astype(np.float32) * np.float32(scale)).astype(tensor.values.dtype)
        if not np.isfinite(values.astype(np.float32)).all():
            raise BadModel(
                f"initializer {tensor.name}: holds NaN or infinite numbers, or overflows when scaled by {scale}"
            )
    name = tensor.name
    while name in found.claims or name != tensor.name and name in found.reserved:
        name += "_"  # the same tensor, cut in two ways by two uses
    made[key] = gs.Constant(name, values)
    claim: dict[str, Any] = {"parent": tensor.name}
    claim["take"] = [found.index(taken[a]) if a in taken else None for a in range(tensor.values.ndim)]
    if scale != 1.0:
        claim["scale"] = scale
    found.claims[name] = claim
    return made[key]


def _refuse_tables(model: Model, cut: Cut) -> None:
    """A table computed from constants (frequencies, slopes) in the graph has no initializer to slice."""
    computed = {name for name, tensor in model.graph.tensors().items() if isinstance(tensor, gs.Variable)}
    for slot in cut.trace.slots:
        if slot.kind == "table" and slot.tensor in computed and cut.take_slot(slot) is not None:
            raise UnsupportedGraph(
                f"table {slot.tensor!r}, axis {slot.axis} of {slot.size}, is computed from constants in the graph and "
                f"would have to be cut: fold constants first (onnxsim, onnxslim) and clone the folded file"
            )
