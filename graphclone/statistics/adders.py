"""Where sums are kept between batches: on the host, or on the device where the graph runs.

Both hold the same pieces by name: ``vectors`` and ``counts``, all places' one after the other, and ``tile.0`` on of
second moments; behind ``unseen.`` the same of the batches that are set apart. All float64, counts int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.statistics.assembly import Reduced
from graphclone.statistics.nodes import Array, Builder
from graphclone.statistics.runtime import DEVICES, Session, as_fed, failed, open_session, runtime

Pieces = dict[str, Array]
NOTHING: Array = np.zeros(0)
UNSEEN = "unseen."
BEFORE, WEIGHT, FINITE = "graphclone_before_", "graphclone_weight", "graphclone_finite"


class Adder(Protocol):
    """Keeps sums."""

    def open(self, reduced: Reduced, provider: str, threads: int | None) -> Session:
        """A session whose batches ``add`` can add."""

    def add(self, session: Session, fed: Mapping[str, Array], where: str, *, unseen: bool) -> Array | None:
        """Run a batch and add it; where not every number is finite nothing is added: the batch's own vectors."""

    def pieces(self) -> Pieces:
        """What there is so far; nothing before the first batch."""

    def load(self, pieces: Pieces) -> None:
        """Go on from there."""


class Host:
    """Each batch's sums cross to the host and are added in float64 there."""

    def __init__(self, reduced: Reduced, apart: bool) -> None:
        self.names = tuple(reduced.names)
        self.apart = apart
        self.held: Pieces = {}

    def open(self, reduced: Reduced, provider: str, threads: int | None) -> Session:
        """See Adder."""
        return open_session(reduced.model, provider, threads)

    def add(self, session: Session, fed: Mapping[str, Array], where: str, *, unseen: bool) -> Array | None:
        """See Adder."""
        found = dict(zip(self.names, session.run(fed, where), strict=True))
        if not all(np.isfinite(array).all() for array in found.values()):
            return found.get("vectors", NOTHING)
        for name, array in found.items():
            self._add(name, array)
            if self.apart and unseen:
                self._add(UNSEEN + name, array)
        return None

    def _add(self, name: str, array: Array) -> None:
        if name in self.held:
            self.held[name] += array
        else:
            self.held[name] = array.astype(np.int64 if array.dtype == np.int64 else np.float64)

    def pieces(self) -> Pieces:
        """See Adder."""
        return {name: array.copy() for name, array in self.held.items()}

    def load(self, pieces: Pieces) -> None:
        """See Adder."""
        self.held = {name: array.copy() for name, array in pieces.items()}


class Device:
    """The graph takes the sums so far as inputs and gives the next ones; they stay where it runs.

    One number a batch crosses to the host, which says whether all others are finite.
    """

    def __init__(self, reduced: Reduced, apart: bool, provider: str) -> None:
        self.names = (*reduced.names, *(UNSEEN + name for name in reduced.names if apart))
        self.sizes = {**reduced.sizes, **{UNSEEN + name: size for name, size in reduced.sizes.items() if apart}}
        self.apart = apart
        self.device = DEVICES[provider]
        self.held: dict[str, Any] = {}

    def open(self, reduced: Reduced, provider: str, threads: int | None) -> Session:
        """See Adder."""
        return open_session(accumulating(reduced, self.apart), provider, threads)

    def add(self, session: Session, fed: Mapping[str, Array], where: str, *, unseen: bool) -> Array | None:
        """See Adder. The sums of a batch that is not finite are dropped where they are."""
        if not self.held:
            self.load({name: np.zeros(size, _type(name)) for name, size in self.sizes.items()})
        bound = session.runtime.io_binding()
        value_of, alive = runtime().OrtValue, []  # what is bound has to outlive the run
        mine = {BEFORE + name for name in self.names} | {WEIGHT}
        for given in session.runtime.get_inputs():
            if given.name not in mine:
                array = np.ascontiguousarray(as_fed(fed[given.name], given.type))
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                alive.append((array, value_of.ortvalue_from_numpy_with_onnx_type(array, kind)))
                bound.bind_ortvalue_input(given.name, alive[-1][1])
        if self.apart:
            bound.bind_cpu_input(WEIGHT, np.asarray(float(unseen)))
        for name, value in self.held.items():
            bound.bind_ortvalue_input(BEFORE + name, value)
        outputs = [given.name for given in session.runtime.get_outputs()]
        for name in outputs:
            bound.bind_output(name, *(("cpu", 0) if name == FINITE else self.device))
        try:
            session.runtime.run_with_iobinding(bound)
        except Exception as reason:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
            raise failed(where, reason) from None
        made = dict(zip(outputs, bound.get_outputs(), strict=True))
        if not np.isfinite(made[FINITE].numpy()).all():
            return np.asarray(made["vectors"].numpy()) if "vectors" in made else NOTHING
        self.held = {name: made[f"{BEFORE}{name}_next"] for name in self.names}
        return None

    def pieces(self) -> Pieces:
        """See Adder."""
        return {name: np.array(value.numpy()) for name, value in self.held.items()}

    def load(self, pieces: Pieces) -> None:
        """See Adder."""
        make = runtime().OrtValue.ortvalue_from_numpy
        whole = pieces and {n: pieces.get(n, np.zeros(size, _type(n))) for n, size in self.sizes.items()}
        self.held = {name: make(np.ascontiguousarray(array), *self.device) for name, array in whole.items()}


def _type(name: str) -> type:
    return np.int64 if name.endswith("counts") else np.float64


def accumulating(reduced: Reduced, apart: bool) -> Model:
    """The probe's graph with the sums so far as inputs and the next ones as outputs, beside whether all are finite and
    the batch's own vectors, which nobody reads unless they are not."""
    copy = reduced.model.copy()
    builder = Builder(copy.graph.opset, prefix="graphclone_sum")
    made = dict(zip(reduced.names, copy.graph.outputs, strict=True))
    weight = gs.Variable(WEIGHT, np.float64, [])
    outputs = []
    for name, tensor in made.items():
        dtype = _type(name)
        wide = tensor if dtype is np.int64 else builder.cast(tensor, np.float64)
        outputs.append(_next(copy, builder, name, wide, reduced.sizes[name]))
        if apart:
            share = builder.cast(weight, np.int64) if dtype is np.int64 else weight
            some = builder.add("Mul", [wide, share], dtype)
            outputs.append(_next(copy, builder, UNSEEN + name, some, reduced.sizes[name]))
    nothing = [
        builder.add("ReduceSum", [builder.add("Mul", [tensor, builder.number(0)])], keepdims=0)
        for name, tensor in made.items()
        if not name.endswith("counts")
    ]
    finite = builder.add("Sum", nothing)  # 0, or not a number where any of them is not finite
    finite.name = FINITE
    own = [builder.add("Identity", [made[name]]) for name in made if name == "vectors"]
    for tensor in own:
        tensor.name = "vectors"
    copy.graph.inputs = [*copy.graph.inputs, *([weight] if apart else [])]
    copy.graph.nodes += builder.taken()
    copy.graph.outputs = [*outputs, finite, *own]
    return copy


def _next(copy: Model, builder: Builder, name: str, tensor: gs.Tensor, size: tuple[int, ...]) -> gs.Variable:
    before = gs.Variable(BEFORE + name, _type(name), list(size))
    copy.graph.inputs = [*copy.graph.inputs, before]
    after = builder.add("Add", [before, tensor], _type(name))
    after.name = f"{BEFORE}{name}_next"
    return after
