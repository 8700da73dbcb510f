"""Norms that average over what was cut: dropping heads changes what is left where queries are normed across heads."""

from __future__ import annotations

import onnx

from graphclone.errors import GraphCloneError
from graphclone.graph import Model, to_proto

MEANS = (
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "ReduceMean",
    "LpNormalization",
)


def narrowed(parent: Model, clone: Model) -> str | None:
    """The first output of a norm of the clone whose mean is over fewer channels than the parent's, or None."""
    before, after = _widths(parent), _widths(clone)
    return next((name for name, width in after.items() if name in before and width < before[name]), None)


def _widths(model: Model) -> dict[str, int]:
    """Channels over which each norm averages, by its output: the last axis of its input, where that is known."""
    try:
        inferred = onnx.shape_inference.infer_shapes(to_proto(model)[0])
    except (GraphCloneError, onnx.shape_inference.InferenceError, RuntimeError):
        return {}
    graph = inferred.graph
    last: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[-1].HasField("dim_value"):
            last[value.name] = dims[-1].dim_value
    gains = {t.name: t.dims[-1] for t in graph.initializer if len(t.dims) == 1}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in MEANS:
            widths = [gains[name] for name in node.input[1:] if name in gains] if node.op_type != "ReduceMean" else []
            width = (widths or [last.get(node.input[0], 0)])[0]
            if width:
                found[node.output[0]] = width
    return found
