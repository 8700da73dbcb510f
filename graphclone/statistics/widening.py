"""Turns half-precision weights into float32.

bfloat16 where a graph is measured on a CPU, for which ONNX Runtime has no kernels; both kinds where a graph is trained,
because AdamW's steps are smaller than what half precision can tell apart.

Every bfloat16 and float16 is a float32, so the weights are the same numbers; what is computed is rounded less often.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.graph import Model

Kinds = Mapping[int, np.dtype[Any]]

BFLOAT16: Kinds = {int(onnx.TensorProto.BFLOAT16): np.dtype(ml_dtypes.bfloat16)}
HALVES: Kinds = {**BFLOAT16, int(onnx.TensorProto.FLOAT16): np.dtype(np.float16)}
TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype", "Bernoulli": "dtype"}


def needed(model: Model, kinds: Kinds = BFLOAT16) -> bool:
    """Whether a graph computes in one of these kinds."""
    return any(narrow(tensor.dtype, kinds) for tensor in model.graph.tensors().values())


def widened(model: Model, kinds: Kinds = BFLOAT16) -> Model:
    """A copy that computes in float32 wherever the model does in one of these kinds, and is fed so."""
    copy = model.copy()
    graph = copy.graph
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            if narrow(tensor.values.dtype, kinds):
                tensor.values = tensor.values.astype(np.float32)
                tensor.export_dtype = None  # onnx-graphsurgeon remembers what a copied constant was
        elif narrow(tensor.dtype, kinds):
            tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        if node.op in TYPED and narrow(node.attrs.get(TYPED[node.op]), kinds):
            node.attrs[TYPED[node.op]] = int(onnx.TensorProto.FLOAT)
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant) and narrow(value.values.dtype, kinds):
            node.attrs["value"] = gs.Constant(value.name, value.values.astype(np.float32))
    return copy


def narrow(dtype: Any, kinds: Kinds = HALVES) -> bool:
    """Whether a NumPy type, or the number of an ONNX type, is one of these kinds; None is not."""
    return dtype is not None and (dtype in kinds if isinstance(dtype, int) else np.dtype(dtype) in kinds.values())
