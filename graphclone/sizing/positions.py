"""Which positions of an output count: those that the mask of its own input keeps, as where activations are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.errors import BadData, UnsupportedGraph
from graphclone.feeds import Input
from graphclone.graph import Model
from graphclone.statistics import masks
from graphclone.verification.sessions import open_session

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Under:
    """How an output lies under a mask [batch, length]. axes: its axes of batch and of length; one, where both share
    it."""

    mask: str
    axes: tuple[int, ...]

    def kept(self, shape: Shape, fed: Mapping[str, Array]) -> Array:
        """Which positions (all axes but the last) of an output of this shape count."""
        seen = np.asarray(fed[self.mask]) != 0
        sizes = [1] * (len(shape) - 1)
        for axis in self.axes:
            sizes[axis] = shape[axis]
        seen = seen.T if self.axes != tuple(sorted(self.axes)) else seen
        return np.broadcast_to(seen.reshape(sizes), shape[:-1])


def under_masks(model: Model, known: Mapping[str, Input], mask: str | None = None) -> dict[str, Under]:
    """The outputs that lie under a mask. ``mask``: the input that says which positions count, of whatever it fits;
    None: the attention mask of each output's own positions. Raises InvalidTarget for a mask that is none."""
    if mask is None and not any(i.role.name == "mask" and len(i.shape) == 2 for i in known.values()):
        return {}
    session = open_session(model)

    def shapes_of(fed: Mapping[str, Array]) -> dict[str, Shape]:
        try:
            return {name: array.shape for name, array in session.run(fed).items()}
        except UnsupportedGraph as reason:  # of these sizes: others are tried
            raise BadData(str(reason)) from None

    tiny, shapes = masks.learn(model, shapes_of)
    if mask is None:
        pairs, owners = masks.pairs(tiny), masks.owners(model, list(shapes), tiny.known)
        chosen = {name: pairs.get(owners.get(name, "")) for name in shapes}
    else:
        chosen = dict.fromkeys(shapes, masks.named(mask, tiny))
    found = {}
    for name, shape in shapes.items():
        over = chosen[name]
        axes = _axes(shape[:-1], tiny.masks[over]) if over is not None else None
        if over is not None and axes is not None:
            found[name] = Under(over, axes)
    return found


def _axes(lead: Sequence[int], mask: tuple[int, int]) -> tuple[int, ...] | None:
    """Where batch and length of a mask lie among the axes of an output but its last; in a cache behind its heads."""
    batch, length = mask
    if len(lead) > 1 and batch in lead:
        first = lead.index(batch)
        others = [axis for axis, size in enumerate(lead) if size == length and axis != first]
        if others:
            return (first, others[-1])
    return (0,) if lead and lead[0] == batch * length else None
