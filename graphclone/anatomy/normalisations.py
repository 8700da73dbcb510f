"""Finds the norms of a graph: an operator that normalises, or reductions over neurons followed by a gain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.parts import Norm
from graphclone.anatomy.trace import Note, Trace, node_key

FAR_ENOUGH = 12  # nodes between a reduction and the gain that closes the norm, in any exporter seen
ROOTS = ("Sqrt", "Pow", "Rsqrt", "Reciprocal")  # one of them follows every mean of squares that normalises
ROOTED = ("ReduceL2",)  # reductions that end in a root themselves
UNNORMALISING = ("MatMul", "Gemm", "Conv", "Softmax")
# operators that normalise a sum which they make themselves -> which output shows it; both epsilons default to 1e-12
SUMMING = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "EmbedLayerNormalization": 2}
CONTRIB_EPSILON, EPSILON = 1e-12, 1e-5  # onnxruntime/docs/ContribOperators.md; ONNX LayerNormalization-17


def norms(found: Grouping, nodes: Sequence[gs.Node], residual: Group, stream: set[str]) -> list[Norm]:
    """The norms among ``nodes``; ``stream`` holds the cut points, whose makers are post-norms."""
    keys = {node_key(n) for n in nodes}
    result: list[Norm] = []
    done: set[str] = set()
    for note in found.trace.notes:
        if note.kind not in ("norm", "reduction") or node_key(note.node) not in keys:
            continue
        groups = found.on(note.inputs[0].axis(note.axis))
        if not groups:
            continue
        norm = _operator(note) if note.kind == "norm" else _decomposed(found.trace, note)
        if norm is None or norm.output in done:
            continue
        done.add(norm.output)
        on_residual = residual in groups
        placement = "qk" if not on_residual else "post" if norm.output in stream else "pre"
        result.append(replace(norm, placement=placement))
    return result


def sum_name(node: gs.Node) -> str:
    """The tensor that a summing norm normalises; where the node does not show it, the name ``show_sum`` gives it."""
    place = SUMMING[node.op]
    shown = node.outputs[place].name if len(node.outputs) > place else ""
    return str(shown or f"{node.outputs[0].name}_sum")


def show_sum(node: gs.Node) -> gs.Variable:
    """Have a summing norm show what it normalises."""
    place = SUMMING[node.op]
    while len(node.outputs) <= place:
        node.outputs.append(gs.Variable.empty())
    if not node.outputs[place].name:
        node.outputs[place] = gs.Variable(sum_name(node), node.outputs[0].dtype)
    return node.outputs[place]


def _operator(note: Note) -> Norm:
    node = note.node
    first = {"SkipLayerNormalization": 2, "SkipSimplifiedLayerNormalization": 2, "EmbedLayerNormalization": 5}
    at = first.get(node.op, 1)
    rms = "RMS" in node.op or "Simplified" in node.op
    given = [None if t.is_empty() else t for t in node.inputs] + [None] * (at + 2)
    gain, bias = given[at], None if rms else given[at + 1]
    source = sum_name(node) if node.op in SUMMING else node.inputs[0].name
    epsilon = float(node.attrs.get("epsilon", CONTRIB_EPSILON if node.op in SUMMING else EPSILON))
    return Norm(
        "RMSNorm" if rms else "LayerNorm",
        "",
        gain.name if isinstance(gain, gs.Constant) else None,
        bias.name if isinstance(bias, gs.Constant) else None,
        note.inputs[0].shape[note.axis],
        source,
        node_key(node),
        epsilon=epsilon,
        gain_at=None if gain is None else (node_key(node), at),
        bias_at=None if bias is None else (node_key(node), at + 1),
    )


def _decomposed(trace: Trace, note: Note) -> Norm | None:
    """Mean of squares -> ... -> times gain (-> plus bias). The mean of a LayerNorm is its first half: skipped."""
    reduced = note.node.outputs[0]
    whole = math.prod(note.inputs[0].shape)
    if _centres(trace, reduced, whole):
        return None
    source, centred = _origin(note.node)
    width = note.inputs[0].shape[note.axis]
    gain = bias = gain_at = bias_at = None
    rooted, applied = note.node.op in ROOTED, False
    current: gs.Variable = reduced
    for node in _after(reduced):
        place = next((k for k in range(len(node.inputs)) if _is_vector(trace, node, k, width)), None)
        centred |= node.op == "Sub" and not rooted  # a variance may be the mean of squares less the square of the mean
        rooted |= node.op in ROOTS
        if node.op == "Mul" and place is not None and gain is None:
            gain, gain_at = node.inputs[place].name, (node_key(node), place)
        elif node.op == "Add" and place is not None and gain is not None:
            bias, bias_at = node.inputs[place].name, (node_key(node), place)
        elif (gain is not None and applied) or node.op in UNNORMALISING:
            break
        applied |= node.op in ("Mul", "Div") and place is None and _size(trace, node) >= whole
        current = node.outputs[0]
    if not rooted:
        return None
    kind = "LayerNorm" if centred else "RMSNorm"
    return Norm(
        kind,
        "",
        gain,
        bias,
        width,
        source,
        current.name,
        epsilon=_epsilon(trace, reduced),
        gain_at=gain_at,
        bias_at=bias_at,
    )


def _centres(trace: Trace, reduced: gs.Variable, whole: int) -> bool:
    """Is a mean, or a sum that a number makes one, subtracted from what it is the mean of?"""
    for node in reduced.outputs:
        if node.op == "Sub" and _size(trace, node) >= whole:
            return True
        numbers = [v for k in range(len(node.inputs)) if (v := trace.input(node, k)) is not None and v.static]
        scaled = node.op in ("Mul", "Div") and any(math.prod(v.shape) == 1 for v in numbers)
        if (scaled or node.op == "Cast") and _centres(trace, node.outputs[0], whole):
            return True
    return False


def _size(trace: Trace, node: gs.Node) -> int:
    return math.prod(trace.values[node_key(node)].shape)


def _after(tensor: gs.Variable) -> Iterator[gs.Node]:
    """The nodes that follow a tensor one after the other, always the first reader."""
    for _ in range(FAR_ENOUGH):
        node = next((n for n in tensor.outputs if n.op != "Shape"), None)
        if node is None:
            return
        yield node
        tensor = node.outputs[0]


def _epsilon(trace: Trace, reduced: gs.Variable) -> float:
    """The number added to the mean of squares before its root."""
    for node in _after(reduced):
        if node.op in ROOTS:
            break
        if node.op == "Add":
            numbers = [trace.input(node, k) for k in range(len(node.inputs))]
            held = [v.data for v in numbers if v is not None and v.data is not None and v.data.size == 1]
            return float(np.asarray(held[0], np.float64).reshape(())) if held else 0.0
    return 0.0


def _is_vector(trace: Trace, node: gs.Node, index: int, width: int) -> bool:
    value = trace.input(node, index)
    return value is not None and value.static and value.labelled and value.shape[-1] == width


def _origin(node: gs.Node) -> tuple[str, bool]:
    """What is being normalised: behind the square, and behind the subtraction of the mean."""
    tensor = node.inputs[0]
    squared = node.op in ("ReduceL2", "ReduceSumSquare") or node.op == "Einsum" and len(node.inputs) == 2
    centred = False
    while tensor.inputs:
        maker = tensor.inputs[0]
        if maker.op == "Cast" or maker.op == "Mul" and _single(maker.inputs[1]) and not squared:
            pass  # a number that makes a mean of the sum may stand before it
        elif not squared and maker.op in ("Pow", "Mul") and (maker.op == "Pow" or maker.inputs[0] is maker.inputs[1]):
            squared = True
        elif squared and not centred and maker.op == "Sub" and _is_mean(maker.inputs[1]):
            centred = True
        else:
            break
        tensor = maker.inputs[0]
    return str(tensor.name), centred


def _single(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and math.prod(tensor.shape) == 1


def _is_mean(tensor: gs.Tensor) -> bool:
    """Made by a reduction, a division, reshaping and casts in between."""
    for _ in range(4):
        if not tensor.inputs:
            return False
        maker = tensor.inputs[0]
        if maker.op in ("ReduceMean", "ReduceSum", "GlobalAveragePool"):
            return True
        tensor = next((t for t in maker.inputs if isinstance(t, gs.Variable)), maker.inputs[0])
    return False
