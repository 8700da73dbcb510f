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


@dataclass(frozen=True)
class Correction:
    """What one use of a weight becomes: its slice times ``scale``, or ``values`` in its place.

    ``scale``: a number, or an array that broadcasts onto the slice (one gain a position of an axis). ``values``: of the
    slice's own shape, in any float type, with every factor in them. Products are taken in float32, in float64 for
    float64, and rounded once to the weight's own type.
    """

    scale: float | Array = 1.0
    values: Array | None = None

    @property
    def key(self) -> bytes:
        """Equal for corrections that do the same."""
        if self.values is not None:
            return b"values" + self.values.tobytes()
        return repr(self.scale).encode() if isinstance(self.scale, float) else self.scale.tobytes()

    @property
    def claim(self) -> dict[str, Any]:
        """What the clone's metadata says of it; nothing for a plain slice."""
        if self.values is not None:
            return {"replaced": True}
        scale = self.scale if isinstance(self.scale, float) else self.scale.tolist()
        return {} if scale == 1.0 else {"scale": scale}

    def apply(self, cut: Array, name: str) -> Array:
        """The corrected slice, in its own type. Raises BadModel where it is not finite."""
        if not self.claim:
            return cut
        wide = np.promote_types(cut.dtype, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            made = self.values if self.values is not None else cut.astype(wide) * np.asarray(self.scale, wide)
            result = np.asarray(made).astype(cut.dtype)
        if result.shape != cut.shape:
            raise ValueError(f"{name}: a correction makes {list(result.shape)} of the slice {list(cut.shape)}")
        if not np.isfinite(result.astype(wide)).all():
            by = (
                "corrected"
                if self.values is not None or not isinstance(self.scale, float)
                else f"scaled by {self.scale}"
            )
            raise BadModel(f"initializer {name}: holds NaN or infinite numbers, or overflows when {by}")
        return result


PLAIN = Correction()


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


def slice_weights(model: Model, cut: Cut, corrections: Mapping[Use, Correction]) -> Slices:
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
                taken = {a: t for a, s in axes.items() if (t := cut.take_slot(s)) is not None}
                node.inputs[position] = _sliced(tensor, taken, corrections.get(use, PLAIN), made, found)
    for tensor in model.graph.inputs:
        for axis, slot in slots.get((tensor.name, None), {}).items():
            shape = list(tensor.shape)
            shape[axis] = cut.size((np.arange(slot.start, slot.start + slot.size),), slot.size)
            tensor.shape = shape
    return found


def _sliced(
    tensor: gs.Constant,
    taken: dict[int, Ids],
    correction: Correction,
    made: dict[tuple[str, bytes], gs.Constant],
    found: Slices,
) -> gs.Constant:
    key = (tensor.name, repr(sorted((a, t.tobytes()) for a, t in taken.items())).encode() + correction.key)
    if key in made:
        return made[key]
    values = tensor.values
    for axis, take in taken.items():
        values = np.take(values, take, axis=axis)
    name = tensor.name
    while name in found.claims or name != tensor.name and name in found.reserved:
        name += "_"  # the same tensor, cut in two ways by two uses
    made[key] = gs.Constant(name, correction.apply(values, tensor.name))
    claim: dict[str, Any] = {"parent": tensor.name}
    claim["take"] = [found.index(taken[a]) if a in taken else None for a in range(tensor.values.ndim)]
    found.claims[name] = claim | correction.claim
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
