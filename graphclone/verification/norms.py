"""Norms over the channels that were kept: the parent's norms, told to leave the others out.

In the zeroed parent a dropped channel is zero, but it still counts: a mean over d channels of which k are kept is k/d
of the mean over those, and a centred channel that was dropped is minus the mean. So each mean takes the kept alone:
mean(x) becomes mean(x * mask) * d / k, sum(x) / d becomes sum(x * mask) / k whatever the clone divides by, an unbiased
variance's d / (d - 1) becomes k / (k - 1), and norms that are one operator are written out so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.errors import GraphCloneError, UnsupportedGraph
from graphclone.graph import Model, to_proto
from graphclone.verification.channels import mask
from graphclone.verification.claims import Claims
from graphclone.verification.forms import FORMS, OTHERS, Form, constant, name_of
from graphclone.verification.sums import SUMS, lengths, unbiased

Array = np.ndarray[Any, Any]
AXES_AS_INPUT = 13  # the opset from which ReduceSum takes its axes as an input


Dims = Mapping[str, tuple[int, ...]]


def narrowed(parent: Model, clone: Model, measured: tuple[Dims, Dims] = ({}, {})) -> dict[str, tuple[int, int]]:
    """Norms of the clone whose mean is over fewer channels than the parent's: first output -> (the parent's, its).
    ``measured``: sizes of values of both that their graphs do not tell."""
    before, after = _widths(parent, measured[0]), _widths(clone, measured[1], sums=True)
    return {n: (before[n], width) for n, width in after.items() if n in before and width < before[n]}


def unsized(model: Model) -> list[str]:
    """What is averaged or summed over axes of which the last is not known."""
    dims = dims_of(model)
    found = [n.inputs[0].name for n in model.graph.nodes if n.op == "ReduceMean" or n.op in SUMS]
    return sorted({name for name in found if not dims.get(name, ()) or not dims[name][-1]})


def _widths(model: Model, measured: Dims, sums: bool = False) -> dict[str, int]:
    """Channels over which each norm averages, by its output: the last axis of its input, where that is known.

    ``sums``: of every sum, divided by its length or not. A clone is not believed that it divides by the right one.
    """
    values = _values(model)
    found: dict[str, int] = {}
    for node in model.graph.nodes:
        given = node.inputs[0].name if node.inputs else ""
        dims = measured.get(given, values.get(given, Known()).dims)
        if node.op in FORMS:
            gain = constant(node.inputs[FORMS[node.op].gain])
            found[node.outputs[0].name] = int(gain.shape[-1]) if gain is not None else dims[-1] if dims else 0
        elif dims and _axes(node, len(dims)) in ([-1], [len(dims) - 1]) and (sums or _averages(node, dims[-1])):
            found[node.outputs[0].name] = dims[-1]
    return {name: width for name, width in found.items() if width}


@dataclass(frozen=True)
class Known:
    """What is known of a value: its sizes, 0 for one that is not, and its type."""

    dims: tuple[int, ...] = ()
    dtype: Any = np.float32


def _values(model: Model) -> dict[str, Known]:
    """Of every value whose shape is declared or inferred."""
    try:
        graph = onnx.shape_inference.infer_shapes(to_proto(model)[0]).graph
    except (GraphCloneError, onnx.shape_inference.InferenceError, RuntimeError):
        return {}
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        held = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(held.elem_type)) if held.elem_type else Known.dtype
        found[value.name] = Known(tuple(dim.dim_value for dim in held.shape.dim), dtype)
    return found


def dims_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Sizes of every value whose shape is declared or inferred, 0 for one that is not known."""
    return {name: known.dims for name, known in _values(model).items()}


def _averages(node: gs.Node, width: int) -> bool:
    return node.op not in SUMS or bool(lengths(node, width))


def _axes(node: gs.Node, rank: int) -> list[int]:
    """Over which axes a node averages or sums: by attribute or, from opset 18 on (sums: 13), its second input; pools
    over all but two."""
    if node.op == "GlobalAveragePool":
        return list(range(2, rank))
    if node.op != "ReduceMean" and node.op not in SUMS:
        return []
    given = node.attrs.get("axes")
    if given is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        given = node.inputs[1].values
    return [] if given is None else [int(axis) for axis in given]


def leave_out(
    model: Model, parent: Model, clone: Model, claims: Claims, measured: tuple[Dims, Dims] = ({}, {})
) -> None:
    """Make the norms of the zeroed parent that the clone has narrower average over the kept channels, in place.

    Raises UnsupportedGraph where it is not told which those are.
    """
    thinner = narrowed(parent, clone, measured)
    if thinner and (other := next((n for n in parent.graph.nodes if n.op in OTHERS), None)):
        raise UnsupportedGraph(f"{other.op} node {other.name!r} may average over channels that were cut")
    masks = {name_of(n): mask(n, *thinner[name_of(n)], claims) for n in parent.graph.nodes if name_of(n) in thinner}
    _shorten(model, parent, thinner)
    values = _values(model) if thinner else {}
    made: list[gs.Node] = []
    for node in model.graph.nodes:
        name = name_of(node)
        if name not in masks:
            made.append(node)
            continue
        before, after = thinner[name]
        writer = _Writer(name, masks[name], 1.0 if node.op in SUMS else before / after, int(model.graph.opset))
        dtype = np.dtype(values.get(node.inputs[0].name, Known()).dtype)
        made += writer.norm(node, FORMS[node.op], dtype) if node.op in FORMS else writer.mean(node, dtype)
    model.graph.nodes[:] = made


def _shorten(model: Model, parent: Model, thinner: Mapping[str, tuple[int, int]]) -> None:
    """Sums over fewer channels are divided by how many there are, and variances corrected by them, in place."""
    twins = {name_of(node): node for node in model.graph.nodes}
    dims = dims_of(parent) if thinner else {}
    for node in parent.graph.nodes:
        before, after = thinner.get(name_of(node), (0, 0))
        if not after:
            continue
        for length in lengths(node, before) if node.op in SUMS else unbiased(node, before, dims):
            length.shorten(twins[name_of(length.node)], after)


@dataclass
class _Writer:
    """Writes nodes that take the place of one norm; their names begin with its output's."""

    stem: str
    mask: Array
    factor: float
    opset: int
    count: int = 0

    def mean(self, node: gs.Node, dtype: np.dtype[Any]) -> list[gs.Node]:
        """The mean of the kept alone."""
        masked, first = self._op("Mul", node.inputs[0], self._constant(self.mask, dtype))
        (out,) = node.outputs
        whole = gs.Variable(f"{self.stem}@of_all", out.dtype)
        reduce = gs.Node(node.op, f"{self.stem}@all", dict(node.attrs), [masked, *node.inputs[1:]], [whole])
        scaled = gs.Node("Mul", f"{self.stem}@kept", {}, [whole, self._constant(self.factor, dtype)], [out])
        node.outputs.clear()
        return [first, reduce, scaled]

    def norm(self, node: gs.Node, form: Form, own: np.dtype[Any]) -> list[gs.Node]:
        """The operator, written out in float32 (float64 for float64)."""
        if int(node.attrs.get("axis", -1)) > 0 or len([t for t in node.outputs[1:3] if t.name]) > 0:
            raise UnsupportedGraph(f"{node.op} node {node.name!r} hands out more than the norm of the last axis")
        nodes: list[gs.Node] = []

        def op(kind: str, *inputs: Any, **attributes: Any) -> gs.Variable:
            made, new = self._op(kind, *inputs, **attributes)
            nodes.append(new)
            return made

        terms = [node.inputs[k] for k in form.sums if k < len(node.inputs) and not node.inputs[k].is_empty()]
        whole = terms[0]
        for term in terms[1:]:
            whole = op("Add", whole, term)
        gain = node.inputs[form.gain]
        wide = np.dtype(np.float64 if own == np.float64 else np.float32)
        normed = self._normed(op, op("Cast", whole, to=_code(wide)), form, node, wide)
        normed = op("Mul", op("Cast", normed, to=_code(own)), gain)
        if form.bias is not None and form.bias < len(node.inputs) and not node.inputs[form.bias].is_empty():
            normed = op("Add", normed, node.inputs[form.bias])
        outputs = list(node.outputs)
        node.outputs.clear()
        nodes.append(gs.Node("Identity", f"{self.stem}@normed", {}, [normed], [outputs[0]]))
        if form.whole is not None and form.whole < len(outputs) and outputs[form.whole].name:
            nodes.append(gs.Node("Identity", f"{self.stem}@sum", {}, [whole], [outputs[form.whole]]))
        return nodes

    def _normed(
        self, op: Callable[..., gs.Variable], x: gs.Variable, form: Form, node: gs.Node, wide: np.dtype[Any]
    ) -> gs.Variable:
        mask, factor = self._constant(self.mask, wide), self._constant(self.factor / self.mask.size, wide)
        as_input = self.opset >= AXES_AS_INPUT
        axes = [self._constant(-1, np.dtype(np.int64))] if as_input else []
        named: dict[str, Any] = {"keepdims": 1} if as_input else {"keepdims": 1, "axes": [-1]}

        def mean(value: gs.Variable) -> gs.Variable:
            return op("Mul", op("ReduceSum", op("Mul", value, mask), *axes, **named), factor)

        if form.centred:
            x = op("Sub", x, mean(x))
        epsilon = self._constant(float(node.attrs.get("epsilon", form.epsilon)), wide)
        return op("Div", x, op("Sqrt", op("Add", mean(op("Mul", x, x)), epsilon)))

    def _op(self, kind: str, *inputs: Any, **attributes: Any) -> tuple[gs.Variable, gs.Node]:
        self.count += 1
        made = gs.Variable(f"{self.stem}@{self.count}")
        return made, gs.Node(kind, made.name, attributes, list(inputs), [made])

    def _constant(self, value: Any, dtype: np.dtype[Any]) -> gs.Constant:
        self.count += 1
        held: Mapping[bool, Any] = {True: np.asarray([value]), False: np.asarray(value)}
        return gs.Constant(f"{self.stem}@{self.count}", held[np.ndim(value) == 0].astype(dtype))


def _code(dtype: np.dtype[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
