"""Slices every initializer along each axis that is cut, use by use; equal slices become one tensor.

Large ones are recipes (graphclone/recipes.py): nothing is read before the clone is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.concrete import captured
from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Slot, is_weight, node_key
from graphclone.errors import BadModel, UnsupportedGraph
from graphclone.graph import Model
from graphclone.recipes import Recipe, held
from graphclone.surgery.cut import Cut

Array = np.ndarray[Any, Any]
Use = tuple[str, int]  # node key, input index
Key = tuple[str, tuple[tuple[int, bytes], ...], bytes]  # initializer, axes and what is taken of them, correction
LOOKED_UP = 1 << 15  # numbers at once
LAZY_ABOVE = 1 << 20  # bytes of a slice that is cut when it is written, not when the clone is made


@dataclass(frozen=True)
class Correction:
    """What one use of a weight becomes: its slice times ``scale``, or ``values`` in its place.

    ``scale``: a number, or an array that broadcasts onto the slice (one gain a position of an axis). ``values``: of the
    slice's own shape, in any float type, with every factor in them. Products are taken in float32, in float64 for
    float64, and rounded once to the weight's own type.
    """

    scale: float | Array = 1.0
    values: Array | None = None

    def times(self, factor: float | Array) -> Correction:
        """This, and a factor on top of it."""
        if self.values is not None:
            return Correction(values=np.asarray(self.values * factor))
        scale = self.scale * factor
        return Correction(float(scale) if np.ndim(scale) == 0 else np.asarray(scale))

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

    def of(self, cut: Recipe, name: str) -> Array | Recipe:
        """The slice corrected: where it is scaled, when it is evaluated. Raises BadModel where it is not finite."""
        if self.values is not None:
            return _replaced(cut, self.values, name)
        if not self.claim:
            return cut
        if isinstance(self.scale, float):
            table = _table(cut.dtype, self.scale) if cut.dtype.itemsize == 2 else None
            return Recipe(cut, {}, lambda piece, _: _scaled(piece, self.scale, name, table))
        scales = np.broadcast_to(self.scale, cut.shape)
        return Recipe(cut, {}, lambda piece, place: _scaled(piece, scales[place], name))


PLAIN = Correction()


def _scaled(piece: Array, scale: float | Array, name: str, table: Array | None = None) -> Array:
    wide = np.promote_types(piece.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        made: Array = (
            _looked_up(piece, table)
            if table is not None
            else np.asarray(piece.astype(wide) * np.asarray(scale, wide)).astype(piece.dtype)
        )
    if not _finite(made):
        by = f"scaled by {scale}" if isinstance(scale, float) else "scaled"
        raise BadModel(f"{name}: holds NaN or infinite numbers, or overflows when {by}")
    return made


@lru_cache(maxsize=64)
def _table(dtype: np.dtype[Any], scale: float) -> Array:
    """Every number of a 16-bit type, scaled: looking them up is several times quicker than computing them again."""
    with np.errstate(over="ignore", invalid="ignore"):
        every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
        return (every * np.float32(scale)).astype(dtype)


def _looked_up(piece: Array, table: Array) -> Array:
    """A bit at a time: NumPy makes eight bytes of each number to look it up, which should not leave the cache."""
    places = np.ascontiguousarray(piece).reshape(-1).view(np.uint16)
    made = np.empty(places.shape, table.dtype)
    for start in range(0, len(places), LOOKED_UP):
        end = start + LOOKED_UP
        np.take(
            table, places[start:end], out=made[start:end], mode="clip"
        )  # which checks nothing: all are in the table
    return made.reshape(piece.shape)


def _finite(values: Array) -> bool:
    if values.dtype.itemsize != 2:
        return bool(np.isfinite(values).all())
    infinity = np.array(np.inf, values.dtype).view(np.uint16)  # its exponent, all ones, is that of NaN too
    bits = values.view(np.uint16)
    return not (bits.view(np.int16).max(initial=0) >= infinity or bits.max(initial=0) >= infinity | 1 << 15)


def _replaced(cut: Recipe, values: Array, name: str) -> Array:
    if values.shape != cut.shape:
        raise ValueError(f"{name}: a correction makes {list(values.shape)} of the slice {list(cut.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):
        made = values.astype(cut.dtype)
    if not _finite(made):
        raise BadModel(f"{name}: holds NaN or infinite numbers, or overflows when corrected")
    return made


@dataclass
class Slices:
    """What became of the parent's initializers; ``claims`` goes into the clone's metadata."""

    takes: list[list[int]] = field(default_factory=list)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()  # names in the parent
    in_bodies: frozenset[str] = frozenset()  # names by which the bodies of branches read: what they have to find there
    file: Path | None = None  # of the parent
    _known: dict[bytes, int] = field(default_factory=dict)

    def named(self, initializer: str) -> str:
        """An initializer of the parent, for messages."""
        return f"{self.file}: initializer {initializer}" if self.file else f"initializer {initializer}"

    def index(self, take: Ids) -> int:
        """The number of an index list in ``takes``: the residual's is shared by hundreds of axes."""
        key = take.tobytes()
        if key not in self._known:
            self._known[key] = len(self.takes)
            self.takes.append(take.tolist())
        return self._known[key]


def slice_weights(model: Model, cut: Cut, corrections: Mapping[Use, Correction]) -> Slices:
    """Replace the initializers of ``model`` by their slices, in place. Raises UnsupportedGraph for an output cut."""
    bodies = frozenset(name for node in model.graph.nodes for name in captured(node))
    found = Slices(reserved=cut.names, in_bodies=bodies, file=cut.trace.model.path)
    slots: dict[tuple[str, Use | None], dict[int, Slot]] = {}
    for slot in cut.trace.slots:
        slots.setdefault((slot.tensor, slot.use), {})[slot.axis] = slot
    made: dict[Key, gs.Constant] = {}
    for node in model.graph.nodes:
        for position, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                use = (node_key(node), position)
                axes = slots.get((tensor.name, use), slots.get((tensor.name, None), {}))
                taken = {a: t for a, s in axes.items() if (t := cut.take_slot(s)) is not None}
                node.inputs[position] = _sliced(tensor, taken, corrections.get(use, PLAIN), made, found)
    _hand_out(model, made, found)
    for tensor in model.graph.inputs:
        for axis, slot in slots.get((tensor.name, None), {}).items():
            shape = list(tensor.shape)
            shape[axis] = cut.size((np.arange(slot.start, slot.start + slot.size),), slot.size)
            tensor.shape = shape
    return found


def _hand_out(model: Model, made: dict[Key, gs.Constant], found: Slices) -> None:
    """A weight that is itself an output (CLIP's logit_scale) stays whole, under its name. Raises UnsupportedGraph."""
    for position, tensor in enumerate(model.graph.outputs):
        if isinstance(tensor, gs.Constant):
            whole = _sliced(tensor, {}, PLAIN, made, found)
            if whole.name != tensor.name:
                raise UnsupportedGraph(
                    f"output {tensor.name!r} is a weight, and the plan cuts it: leave its neurons whole"
                )
            model.graph.outputs[position] = whole


def _sliced(
    tensor: gs.Constant,
    taken: dict[int, Ids],
    correction: Correction,
    made: dict[Key, gs.Constant],
    found: Slices,
) -> gs.Constant:
    key = (tensor.name, tuple(sorted((a, t.tobytes()) for a, t in taken.items())), correction.key)
    if key in made:
        return made[key]
    whole = held(tensor)
    values = correction.of(Recipe(whole, taken), found.named(tensor.name)) if taken or correction.claim else whole
    if isinstance(values, Recipe) and (values.nbytes <= LAZY_ABOVE or not is_weight(values)):
        values = values.load()
    name = f"{tensor.name}_" if values is not whole and tensor.name in found.in_bodies else tensor.name
    while name in found.claims or name != tensor.name and name in found.reserved:
        name += "_"  # the same tensor, cut in two ways by two uses
    made[key] = gs.Constant(name, values)
    claim: dict[str, Any] = {"parent": tensor.name}
    claim["take"] = [found.index(taken[a]) if a in taken else None for a in range(whole.ndim)]
    found.claims[name] = claim | correction.claim
    return made[key]
