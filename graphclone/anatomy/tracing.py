"""Runs a graph on neuron ids: each node by its row of ``flows.TABLE``, or for real where no weight comes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.concrete import Evaluator, captured
from graphclone.anatomy.moving import sources
from graphclone.anatomy.trace import Array, Flow, Trace, Value, describe, is_weight, plain
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.recipes import Recipe, held, sample

REPEATING = ("Expand", "ConstantOfShape")  # operators that make copies where there was one number
Hook = Callable[[Trace, gs.Node], Sequence[gs.Node]]


def run(
    model: Model,
    feeds: Mapping[str, Array],
    table: Mapping[tuple[str, str], Flow],
    before: Hook | None = None,
) -> Trace:
    """Trace a model whose nodes are in topological order.

    ``before`` may edit a node about to be traced and return new nodes to trace ahead of it (it adds them to the graph).
    Raises UnsupportedGraph, naming the file, the node, its shapes, and what was understood before it.
    """
    trace = Trace(model, shared=_really_shared(model))
    evaluator = Evaluator(model)
    _label_inputs(trace, feeds)
    for position, node in enumerate(model.graph.nodes):
        for step in (*before(trace, node), node) if before else (node,):
            try:
                inputs = [trace.input(step, i) for i in range(len(step.inputs))]
                outputs = _outputs(trace, step, inputs, table, evaluator)
            except UnsupportedGraph as reason:
                raise UnsupportedGraph(f"{model.path or 'model'}: {reason}; {so_far(trace, position)}") from None
            for tensor, value in zip(step.outputs, outputs, strict=False):
                if tensor.name:
                    trace.values[tensor.name] = value
    _pin_captured(trace)
    return trace


def _pin_captured(trace: Trace) -> None:
    """Weights that the body of a branch reads under their own names are whole there, and so everywhere."""
    readers = {name: node for node in trace.model.graph.nodes for name in captured(node)}
    for slot in trace.slots if readers else ():
        if slot.tensor in readers:
            ids = np.arange(slot.start, slot.start + slot.size)
            trace.pin((ids,), f"read inside the body of {describe(readers[slot.tensor])} ({slot.tensor!r})")


def so_far(trace: Trace, position: int | None = None) -> str:
    """What was understood, of all nodes or before the one at ``position``, in words."""
    products = sum(n.kind == "product" and any(v.static for v in n.inputs) for n in trace.notes)
    attentions = sum(n.kind in ("attention", "softmax") for n in trace.notes)
    nodes = len(trace.model.graph.nodes)
    before = "all" if position is None else f"the {position} before it"
    return f"of {nodes} nodes {before} were understood: {products} products with weights, {attentions} attentions"


def _label_inputs(trace: Trace, feeds: Mapping[str, Array]) -> None:
    for tensor in trace.model.graph.inputs:
        fed = feeds[tensor.name]
        if fed.dtype.kind in "iub" and fed.dtype != np.uint8:
            trace.values[tensor.name] = plain(fed.shape, fed)
            continue
        declared = list(tensor.shape or [])
        fixed = [i for i, d in enumerate(declared) if isinstance(d, int) and d > 1]
        trace.values[tensor.name] = trace.label(tensor.name, plain(fed.shape), "input", None, fixed)


def _outputs(
    trace: Trace,
    node: gs.Node,
    inputs: list[Value | None],
    table: Mapping[tuple[str, str], Flow],
    evaluator: Evaluator,
) -> list[Value]:
    given = [v for v in inputs if v is not None]
    static = all(v.static for v in given)
    labelled = any(v.labelled for v in given)
    if inside := [n for n in captured(node) if n in trace.values and trace.values[n].labelled]:
        raise UnsupportedGraph(
            f"{describe(node)} (inputs {_shapes(inputs)}): its body reads traced neurons ({inside[0]!r} "
            f"{list(trace.values[inside[0]].shape)}): export without control flow, or fold it (onnxsim, onnxslim)"
        )
    flow = table.get((node.domain or "", node.op))
    if all(v.numeric for v in given) and evaluator.can(node):
        arrays = evaluator.run(node, inputs)
        if flow is None or not (labelled or node.op in REPEATING):
            for value in given:
                for factors in value.factors:
                    trace.pin(factors, f"read by {describe(node)}")
            return [_computed(trace, node, i, a, static) for i, a in enumerate(arrays)]
        moved = flow(trace, node, inputs)
        return [Value(v.shape, v.factors, a, static, v.labelled) for v, a in zip(moved, arrays, strict=False)]
    if flow is not None:
        try:
            made = flow(trace, node, inputs)
            return [replace(v, static=True) for v in made] if given and static else made  # whatever the row says
        except (ValueError, IndexError) as reason:  # NumPy found sizes that do not fit each other
            raise UnsupportedGraph(f"{describe(node)} (inputs {_shapes(inputs)}): {reason}") from None
    if labelled:
        raise UnsupportedGraph(
            f"{describe(node)} (inputs {_shapes(inputs)}) meets traced neurons and has no row in "
            f"graphclone/anatomy/flows: add one (docs/extending.md) or export without it"
        )
    return [plain(shape) for shape in evaluator.shapes(node, inputs, trace.values)]


def _shapes(inputs: Sequence[Value | None]) -> str:
    return ", ".join("-" if v is None else str(list(v.shape)) for v in inputs)


def _computed(trace: Trace, node: gs.Node, index: int, array: Array, static: bool) -> Value:
    """A value computed for real; a float table made from constants alone is a source of neurons like a weight."""
    value = plain(array.shape, array, static)
    if static and array.dtype.kind == "f" and array.size > 1:
        return trace.label(node.outputs[index].name, value, "table", None, range(array.ndim))
    return value


def _really_shared(model: Model) -> frozenset[str]:
    """Initializers whose uses are one weight. Exporters merge equal tensors (zero biases, unit gains), so vectors and
    constant matrices used twice are taken apart, and those that only move numbers; a matrix of varied numbers used
    twice is tied on purpose."""
    uses: dict[str, int] = {}
    arrays: dict[str, Array | Recipe] = {}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                uses[tensor.name] = uses.get(tensor.name, 0) + 1
                arrays[tensor.name] = held(tensor)
    tied = (n for n, count in uses.items() if count > 1 and sum(s > 1 for s in arrays[n].shape) > 1)
    return frozenset(n for n in tied if is_weight(arrays[n]) and _varied(arrays[n]) and not _moves(arrays[n]))


def _moves(values: Array | Recipe) -> bool:
    return not isinstance(values, Recipe) and sources(values) is not None


def _varied(values: Array | Recipe) -> bool:
    few = sample(values, 4096)
    return bool((few != few[0]).any())
