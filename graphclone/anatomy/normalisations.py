"""Norms: an operator that normalises, or reductions over neurons followed by a gain."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.parts import Norm
from graphclone.anatomy.trace import Note, Trace, node_key

FAR_ENOUGH = 12  # nodes between a reduction and the gain that closes the norm, in any exporter seen


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
        result.append(Norm(norm.kind, placement, norm.gain, norm.bias, norm.width, norm.input, norm.output))
    return result


def _operator(note: Note) -> Norm:
    weights = [t.name if isinstance(t, gs.Constant) else None for t in note.node.inputs[1:3]]
    gain, bias = [*weights, None, None][:2]
    kind = "RMSNorm" if "RMS" in note.node.op or "Simplified" in note.node.op else "LayerNorm"
    return Norm(kind, "", gain, bias, note.inputs[0].shape[note.axis], note.node.inputs[0].name, node_key(note.node))


def _decomposed(trace: Trace, note: Note) -> Norm | None:
    """Mean of squares -> ... -> times gain (-> plus bias). The mean of a LayerNorm is its first half: skipped."""
    reduced = note.node.outputs[0]
    if any(n.op == "Sub" for n in reduced.outputs):
        return None
    source, centred = _origin(note.node)
    width = note.inputs[0].shape[note.axis]
    gain = bias = None
    current: gs.Variable = reduced
    for _ in range(FAR_ENOUGH):
        node = next((n for n in current.outputs if n.op != "Shape"), None)
        if node is None:
            break
        weight = next((t for k, t in enumerate(node.inputs) if _is_vector(trace, node, k, width)), None)
        if node.op == "Mul" and weight is not None and gain is None:
            gain = weight.name
        elif node.op == "Add" and weight is not None and gain is not None:
            bias = weight.name
        elif gain is not None or node.op in ("MatMul", "Gemm"):
            break
        current = node.outputs[0]
    return Norm("LayerNorm" if centred else "RMSNorm", "", gain, bias, width, source, current.name)


def _is_vector(trace: Trace, node: gs.Node, index: int, width: int) -> bool:
    value = trace.input(node, index)
    return value is not None and value.static and value.labelled and value.shape[-1] == width


def _origin(node: gs.Node) -> tuple[str, bool]:
    """What is being normalised: behind the square, and behind the subtraction of the mean."""
    tensor = node.inputs[0]
    centred = False
    for _ in range(4):
        if not tensor.inputs or tensor.inputs[0].op not in ("Pow", "Mul", "Sub", "Cast"):
            break
        centred |= tensor.inputs[0].op == "Sub"
        tensor = tensor.inputs[0].inputs[0]
    return str(tensor.name), centred
