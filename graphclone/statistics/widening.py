"""bfloat16 as float32, where a graph is measured on a CPU: ONNX Runtime has no kernels for it there.

Every bfloat16 is a float32, so the weights are the same numbers; what is computed from them is rounded less often.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.graph import Model

NARROW = np.dtype(ml_dtypes.bfloat16)
CODE = int(onnx.TensorProto.BFLOAT16)
TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype", "Bernoulli": "dtype"}


def needed(model: Model) -> bool:
    """Whether a graph computes in bfloat16."""
    return any(tensor.dtype is not None and _narrow(tensor.dtype) for tensor in model.graph.tensors().values())


def widened(model: Model) -> Model:
    """A copy that computes in float32 wherever the model does in bfloat16, and is fed so."""
    copy = model.copy()
    graph = copy.graph
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            if tensor.values.dtype == NARROW:
                tensor.values = tensor.values.astype(np.float32)
                tensor.export_dtype = None  # onnx-graphsurgeon remembers what a copied constant was
        elif tensor.dtype is not None and _narrow(tensor.dtype):
            tensor.dtype = np.float32
    for node in graph.nodes:
        if node.attrs.get(TYPED.get(node.op, "")) in (CODE, NARROW):
            node.attrs[TYPED[node.op]] = int(onnx.TensorProto.FLOAT)
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant) and value.values.dtype == NARROW:
            node.attrs["value"] = gs.Constant(value.name, value.values.astype(np.float32))
    return copy


def _narrow(dtype: Any) -> bool:
    return bool(dtype == CODE if isinstance(dtype, int) else np.dtype(dtype) == NARROW)
