"""The native twin: the small model of the clone's shape, exported by the same exporter, holding the clone's weights.

Weights are paired by their places in the two graphs: the k-th use of a weight in one is the k-th in the other, where
operators and shapes agree all along. Single numbers (scales, epsilons) stay the twin's own, so that a scale that
should follow the cut and does not is found out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphclone.graph as graphs
from graphclone.feeds import tiny_feeds
from graphclone.graph import Model
from graphclone.verification.sessions import open_session
from tools.zoo.build import build, present
from tools.zoo.columns import COLUMNS
from tools.zoo.oracles import EXTENTS, difference, tolerance
from tools.zoo.row import Row, Sizes
from tools.zoo.rows import ROWS

Array = np.ndarray[Any, Any]
COMMUTES = ("Add", "Mul")


class NoTwin(Exception):
    """The exporter's small model is another graph than the clone: there is nothing to compare."""


@dataclass(frozen=True)
class Use:
    """A weight as one node reads it."""

    op: str
    position: int
    tensor: gs.Constant
    order: tuple[int, ...] | None = None  # of its axes, where it is read transposed

    @property
    def values(self) -> Array:
        """As the node reads them."""
        values: Array = self.tensor.values
        return values if self.order is None else values.transpose(self.order)

    def stored(self, values: Array) -> Array:
        """What the tensor holds where the node reads ``values``."""
        if self.order is None:
            return values
        back: Array = values.transpose(np.argsort(self.order))
        return back

    @property
    def place(self) -> tuple[str, int]:
        """Operator and operand; the operands of a sum or product may stand in either order."""
        return self.op, 0 if self.op in COMMUTES else self.position


def sizes_of(row: Row, target: dict[str, int]) -> Sizes:
    """The configuration's sizes after a cut of everything in ``target``."""
    held = {name: getattr(row.sizes, name) for name in Sizes.__dataclass_fields__}
    return Sizes(**(held | target))


def small(row: str, column: str, target: dict[str, int], folder: Path) -> Model:
    """The twin as its exporter gives it, kept in ``folder`` between runs."""
    cut = replace(ROWS[row], sizes=sizes_of(ROWS[row], target))
    folder.mkdir(exist_ok=True)
    if not present(cut, COLUMNS[column], folder):
        build(cut, COLUMNS[column], folder)
    return graphs.load(folder / f"{row}-{column}.onnx")


def compare(clone: Model, twin: Model, rounding: float = 0.0) -> str:
    """Put the clone's weights into the twin and run both. Raises NoTwin where the graphs do not pair, AssertionError
    where the answers differ by more than the weights' type, or the exporter's ``rounding``, explains."""
    theirs, ours = _uses(twin), _uses(clone)
    if len(theirs) != len(ours):
        raise NoTwin(f"the clone reads weights in {len(ours)} places, the exporter's own small model in {len(theirs)}")
    values: dict[str, Array] = {}
    for mine, wanted in zip(ours, theirs, strict=True):
        if mine.place != wanted.place or mine.values.shape != wanted.values.shape:
            raise NoTwin(
                f"{mine.op} reads {mine.tensor.name} {list(mine.values.shape)} in the clone, "
                f"{wanted.op} reads {wanted.tensor.name} {list(wanted.values.shape)} in the twin"
            )
        values[wanted.tensor.name] = wanted.stored(mine.values)
    filled = twin.copy()
    for name, tensor in filled.graph.tensors().items():
        if name in values:
            tensor.values = values[name]
    before, after = open_session(filled, threads=1), open_session(clone, threads=1)
    worst = 0.0
    for batch, length in EXTENTS:
        feeds = tiny_feeds(clone, batch, length)
        expected, actual = before.run(renamed(feeds, twin)), after.run(feeds)
        worst = max(worst, difference(dict(zip(actual, expected.values(), strict=True)), actual))
    assert worst <= max(tolerance(clone), rounding), f"differs from its native twin by {worst:.2e}"
    return f"{worst:.1e}"


def renamed(feeds: dict[str, Array], twin: Model) -> dict[str, Array]:
    """Feeds under the twin's names, input by input: the caches of a clone keep the numbers of their layers."""
    names = [t.name for t in twin.graph.inputs]
    if set(names) >= feeds.keys():
        return feeds
    return dict(zip(names, feeds.values(), strict=True))


def _uses(model: Model) -> list[Use]:
    """Every float constant of more than one number, in the order in which nodes read them; a Transpose is looked
    through: a tied weight may be stored once and read both ways."""
    found = []
    for node in model.graph.nodes:
        for position, tensor in enumerate(node.inputs):
            use = _use(node, position, tensor)
            if use is not None and use.tensor.values.dtype.kind in "fV" and use.tensor.values.size > 1:
                found.append(use)
    return found


def _use(node: gs.Node, position: int, tensor: gs.Tensor) -> Use | None:
    if isinstance(tensor, gs.Constant):
        return None if node.op == "Transpose" else Use(node.op, position, tensor)
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op != "Transpose" or not isinstance(maker.inputs[0], gs.Constant):
        return None
    order = maker.attrs.get("perm") or range(maker.inputs[0].values.ndim)[::-1]
    return Use(node.op, position, maker.inputs[0], tuple(order))
