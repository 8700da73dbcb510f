"""Building blocks of the probe: nodes by operator, and the masks as the graph's own values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

Array = np.ndarray[Any, Any]
PREFIX = "graphclone_probe"
AXES_AS_INPUT = 13  # the opset from which ReduceSum takes its axes as an input, and Split its sizes
SLICE_BY_INPUTS = 10  # and Slice its bounds


class Builder:
    """Makes nodes, naming them in order; ``taken`` hands over those made since it was last called."""

    def __init__(self, opset: int, prefix: str = PREFIX) -> None:
        self.opset, self.prefix = opset, prefix
        self.nodes: list[gs.Node] = []
        self.count = 0

    def taken(self) -> list[gs.Node]:
        """The nodes made since it was last called."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def add(self, op: str, inputs: Sequence[gs.Tensor], dtype: type = np.float32, **attributes: object) -> gs.Variable:
        """A node of one output."""
        output = gs.Variable(f"{self.prefix}_{self.count}", dtype)
        self.nodes.append(gs.Node(op, output.name, attributes, list(inputs), [output]))
        self.count += 1
        return output

    def constant(self, values: Sequence[int] | int | Array | np.floating[Any]) -> gs.Constant:
        """Integers become int64; what already is NumPy's stays as it is."""
        held = np.asarray(values) if isinstance(values, np.ndarray | np.floating) else np.asarray(values, np.int64)
        self.count += 1
        return gs.Constant(f"{self.prefix}_{self.count - 1}", held)

    def number(self, value: float) -> gs.Constant:
        """A float32 scalar."""
        return self.constant(np.float32(value))

    def cast(self, tensor: gs.Tensor, dtype: type) -> gs.Variable:
        """As another type."""
        return self.add("Cast", [tensor], dtype, to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def reshape(self, tensor: gs.Tensor, shape: Sequence[int], dtype: type = np.float32) -> gs.Variable:
        """0 keeps a size, -1 is what is left."""
        return self.add("Reshape", [tensor, self.constant(shape)], dtype)

    def sum(self, tensor: gs.Tensor, axes: Sequence[int], dtype: type = np.float32) -> gs.Variable:
        """Over axes that disappear."""
        if self.opset < AXES_AS_INPUT:
            return self.add("ReduceSum", [tensor], dtype, axes=list(axes), keepdims=0)
        return self.add("ReduceSum", [tensor, self.constant(axes)], dtype, keepdims=0)

    def split(self, tensor: gs.Variable, sizes: Sequence[int]) -> list[gs.Variable]:
        """The columns of a matrix, in pieces."""
        if len(sizes) == 1:
            return [tensor]
        pieces = [gs.Variable(f"{self.prefix}_{self.count + k}", np.float32) for k in range(len(sizes))]
        self.count += len(sizes)
        by_input = self.opset >= AXES_AS_INPUT
        attributes = {"axis": 1} if by_input else {"axis": 1, "split": list(sizes)}
        given = [tensor, self.constant(sizes)] if by_input else [tensor]
        self.nodes.append(gs.Node("Split", pieces[0].name, attributes, given, pieces))
        return pieces

    def every(self, tensor: gs.Variable, axis: int, step: int) -> gs.Variable:
        """Every ``step``-th position along an axis, from the first on."""
        bounds = map(self.constant, ([0], [np.iinfo(np.int64).max], [axis], [step]))
        return self.add("Slice", [tensor, *bounds])

    def take(self, tensor: gs.Tensor, places: Array) -> gs.Variable:
        """Places along the last axis."""
        return self.add("Gather", [tensor, self.constant(places.astype(np.int64))], axis=-1)


@dataclass(frozen=True)
class Row:
    """A mask [batch, length], or the same with the axes changed, as the graph's own values."""

    kept: gs.Variable  # bool [batch, length]
    column: gs.Variable  # float32 [batch, length]
    weights: gs.Variable  # float32 [batch, 1, length]
    shape: gs.Variable  # int64 [2]
    tokens: gs.Variable  # int64 scalar: positions kept
    size: gs.Variable  # int64 scalar: all positions

    @classmethod
    def build(cls, builder: Builder, mask: gs.Tensor, *, turned: bool = False) -> Row:
        """The nodes that make it."""
        if turned:
            mask = builder.add("Transpose", [mask], mask.dtype, perm=[1, 0])
        kept = builder.cast(mask, np.bool_)
        column = builder.cast(kept, np.float32)
        weights = builder.reshape(column, [0, 1, -1])
        tokens = builder.sum(builder.cast(kept, np.int64), [0, 1], np.int64)
        shape = builder.add("Shape", [mask], np.int64)
        return cls(kept, column, weights, shape, tokens, builder.add("Size", [mask], np.int64))
