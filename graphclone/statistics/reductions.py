"""The nodes that the probe adds: per site, sums over batch and tokens with the padding left out.

Masked sums are products with the mask as a row vector: one pass over the activation, faster than any Reduce operator
of ONNX Runtime, and sequence by sequence, which keeps float32 sums accurate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.anatomy.normalisations import SUMMING, show_sum, sum_name
from graphclone.anatomy.parts import Norm, Site
from graphclone.feeds import Input
from graphclone.graph import Model

PREFIX = "graphclone_probe"
AXES_AS_INPUT = 13  # the opset from which ReduceSum takes its axes as an input

# site kind -> statistics summed there, at norms of what is normalised without gain;
# statistic -> the elementwise operator on (x, x) or (x), if there is one
VECTORS = ("abs", "sum", "square")
KINDS: dict[str, tuple[str, ...]] = dict.fromkeys(("writer", "inner", "norm"), VECTORS)
ELEMENTWISE: dict[str, tuple[str, int] | None] = {"abs": ("Abs", 1), "sum": None, "square": ("Mul", 2)}
# both run at any opset: ONNX Runtime has them in the standard domain from its first version on
NORMALISE = {"LayerNorm": "LayerNormalization", "RMSNorm": "SimplifiedLayerNormalization"}


@dataclass(frozen=True)
class Mask:
    """The attention mask [batch, length], and what these two are in the run that learned the layouts."""

    name: str
    batch: int
    length: int

    @classmethod
    def of(cls, known: Mapping[str, Input], tiny: Mapping[str, np.ndarray[Any, Any]]) -> Mask | None:
        """The only mask of two axes beside the only primary input; None where there are none or several."""
        masks = [i.name for i in known.values() if i.role.name == "mask" and len(i.shape) == 2]
        if len(masks) != 1 or len([i for i in known.values() if i.primary]) != 1:
            return None
        batch, length = tiny[masks[0]].shape
        return cls(masks[0], int(batch), int(length))

    def rank_over(self, shape: Sequence[int], axis: int) -> int | None:
        """Rank of a value seen as [batch, length, ...], None where it is not laid out so. ``axis`` is negative."""
        if len(shape) >= 3 and tuple(shape[:2]) == (self.batch, self.length) and len(shape) + axis >= 2:
            return len(shape)
        return 3 if len(shape) == 2 and shape[0] == self.batch * self.length and axis == -1 else None


class _Builder:
    """Makes nodes, naming them in order; ``taken`` hands over those made since it was last called."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[gs.Node] = []
        self.count = 0

    def taken(self) -> list[gs.Node]:
        nodes, self.nodes = self.nodes, []
        return nodes

    def add(self, op: str, inputs: Sequence[gs.Tensor], dtype: type = np.float32, **attributes: object) -> gs.Variable:
        output = gs.Variable(f"{PREFIX}_{self.count}", dtype)
        self.nodes.append(gs.Node(op, output.name, attributes, list(inputs), [output]))
        self.count += 1
        return output

    def constant(self, values: Sequence[int] | int | np.float32 | np.ndarray[Any, Any]) -> gs.Constant:
        held = np.asarray(values) if isinstance(values, np.float32 | np.ndarray) else np.asarray(values, np.int64)
        self.count += 1
        return gs.Constant(f"{PREFIX}_{self.count - 1}", held)

    def cast(self, tensor: gs.Tensor, dtype: type) -> gs.Variable:
        return self.add("Cast", [tensor], dtype, to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def sum(self, tensor: gs.Tensor, axes: Sequence[int], dtype: type = np.float32) -> gs.Variable:
        if self.opset < AXES_AS_INPUT:
            return self.add("ReduceSum", [tensor], dtype, axes=list(axes), keepdims=0)
        return self.add("ReduceSum", [tensor, self.constant(axes)], dtype, keepdims=0)


@dataclass(frozen=True)
class _Row:
    """The mask as the graph's own values."""

    kept: gs.Variable  # bool [batch, length]
    weights: gs.Variable  # float32 [batch, 1, length]
    shape: gs.Variable  # int64 [2]
    tokens: gs.Variable  # int64 scalar: positions kept
    size: gs.Variable  # int64 scalar: all positions

    @classmethod
    def build(cls, builder: _Builder, mask: gs.Tensor) -> _Row:
        kept = builder.cast(mask, np.bool_)
        weights = builder.add("Reshape", [builder.cast(kept, np.float32), builder.constant([0, 1, -1])])
        tokens = builder.sum(builder.cast(kept, np.int64), [0, 1], np.int64)
        shape = builder.add("Shape", [mask], np.int64)
        return cls(kept, weights, shape, tokens, builder.add("Size", [mask], np.int64))


def reduce_sites(
    model: Model,
    sites: Sequence[Site],
    shapes: Mapping[str, tuple[int, ...]],
    mask: Mask | None,
    norms: Mapping[str, Norm],
    *,
    guard: bool = False,
) -> Model:
    """A copy of the model whose outputs are, site by site, the sums of KINDS (float32 [width]) and a count (int64).

    shapes: of each site's value, in the run that ``mask`` is from. norms: by site. ``guard``: padded positions become 0
    before they are summed, for padding that is not finite.
    """
    copy = model.copy()
    show_sums(copy, sites)
    tensors = copy.graph.tensors()
    builder = _Builder(copy.graph.opset)
    row = _Row.build(builder, tensors[mask.name]) if mask else None
    first = builder.taken()
    behind: dict[str, list[gs.Node]] = {}
    outputs: list[gs.Tensor] = []
    for site in sites:
        shape = shapes[site.value]
        over = mask.rank_over(shape, site.axis) if mask else None
        held = row if over else None
        outputs += _site(builder, site, tensors[site.value], over or len(shape), held, norms.get(site.name), guard)
        behind.setdefault(site.value, []).extend(builder.taken())
    copy.graph.nodes[:] = _interleaved(first, list(copy.graph.nodes), behind)
    copy.graph.outputs = outputs
    return copy


def show_sums(model: Model, sites: Sequence[Site]) -> None:
    """Operators that normalise a sum of their own show it, where a site is there; in place."""
    wanted = {site.value for site in sites if site.kind == "norm"}
    for node in model.graph.nodes:
        if node.op in SUMMING and sum_name(node) in wanted:
            show_sum(node)


def _interleaved(first: list[gs.Node], nodes: Sequence[gs.Node], behind: dict[str, list[gs.Node]]) -> list[gs.Node]:
    """Each reduction right behind what it reduces: a runtime that keeps the order frees the activation there."""
    made: list[gs.Node] = []
    for node in nodes:
        made.append(node)
        for tensor in node.outputs:
            made += behind.pop(tensor.name, [])
    return [*first, *(n for left in behind.values() for n in left), *made]  # what is left reduces the graph's inputs


def _site(
    builder: _Builder, site: Site, value: gs.Tensor, rank: int, row: _Row | None, norm: Norm | None, guard: bool
) -> list[gs.Variable]:
    if value.dtype != np.float32:
        value = builder.cast(value, np.float32)
    if row is not None and rank == 3:  # also folds [batch * length, width] open
        shape = builder.add("Concat", [row.shape, builder.constant([site.width])], np.int64, axis=0)
        value = builder.add("Reshape", [value, shape])
    if row is not None and guard:
        kept = builder.add("Reshape", [row.kept, builder.constant([0, 0] + [1] * (rank - 2))], np.bool_)
        value = builder.add("Where", [kept, value, builder.constant(np.float32(0))])
    axis = rank + site.axis
    if norm is not None:
        value, axis = _normalised(builder, norm, value, axis, rank), rank - 1
    sums = []
    for statistic in KINDS[site.kind]:
        elementwise = ELEMENTWISE[statistic]
        each = builder.add(elementwise[0], [value] * elementwise[1]) if elementwise else value
        sums.append(_sum(builder, each, axis, rank, row))
    return [*sums, _count(builder, value, site.width, row)]


def _normalised(builder: _Builder, norm: Norm, value: gs.Variable, axis: int, rank: int) -> gs.Variable:
    """What the norm makes of a value, its gain and bias left out; the neurons along the last axis."""
    if axis != rank - 1:
        order = [k for k in range(rank) if k != axis]
        value = builder.add("Transpose", [value], perm=[*order, axis])
    gain = builder.constant(np.ones(norm.width, np.float32))
    return builder.add(NORMALISE[norm.kind], [value, gain], axis=-1, epsilon=norm.epsilon)


def _sum(builder: _Builder, value: gs.Variable, axis: int, rank: int, row: _Row | None) -> gs.Variable:
    """Sum over all axes but one, the innermost first: short sums of float32 stay accurate."""
    for other in range(rank - 1, -1 if row is None else 1, -1):
        if other != axis:
            value = builder.sum(value, [other])
    if row is None:
        return value
    return builder.sum(builder.add("MatMul", [row.weights, value]), [0, 1])  # [batch, 1, width] -> [width]


def _count(builder: _Builder, value: gs.Variable, width: int, row: _Row | None) -> gs.Variable:
    positions = builder.add("Div", [builder.add("Size", [value], np.int64), builder.constant(width)], np.int64)
    if row is None:
        return positions
    each = builder.add("Div", [positions, row.size], np.int64)  # several a token where a value has inner axes
    return builder.add("Mul", [each, row.tokens], np.int64)
