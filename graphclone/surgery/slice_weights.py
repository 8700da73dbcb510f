"""Width: every initializer is np.take along each traced axis, use by use; equal slices are one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Slot, node_key
from graphclone.errors import BadModel
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
    _freeze_tables(model, cut, slots)
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


def _freeze_tables(model: Model, cut: Cut, slots: dict[tuple[str, Use | None], dict[int, Slot]]) -> None:
    """A table computed from constants (rotary frequencies, ALiBi slopes) that is cut becomes an initializer."""
    tensors = model.graph.tensors()
    for (name, _), axes in slots.items():
        tensor = tensors.get(name)
        if tensor is None or isinstance(tensor, gs.Constant) or any(s.kind != "table" for s in axes.values()):
            continue
        taken = {a: t for a, s in axes.items() if (t := cut.take_slot(s)) is not None}
        if not taken:
            continue
        values = cut.trace.values[name].data
        assert values is not None
        for axis, take in taken.items():
            values = np.take(values, take, axis=axis)
        tensor.inputs.clear()
        tensor.to_constant(np.ascontiguousarray(values))
