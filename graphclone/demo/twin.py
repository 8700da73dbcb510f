"""A twin of a clone: the same graph with weights drawn at random, as its architecture is started from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphclone import pipeline

if TYPE_CHECKING:
    from graphclone.graph import Model

DEVIATION = 0.02  # of matrices: what the Llama and GPT-2 families are initialised with
VECTORS = {"gain": 1.0, "bias": 0.0}


def randomly_initialised(model: Model, seed: int) -> Model:
    """Matrices from N(0, 0.02), gains 1, biases 0; ties stay ties, tables and constants stay as they are."""
    from graphclone.pytorch.weights import weight_map

    rng = np.random.default_rng(seed)
    constants = model.constants()
    drawn: dict[str, np.ndarray[Any, Any]] = {}
    for weight in weight_map(model):
        dtype = constants[weight.initializers[0][0]].dtype
        values = (
            np.full(weight.shape, VECTORS[weight.role], dtype)
            if weight.role in VECTORS
            else (DEVIATION * rng.standard_normal(weight.shape, dtype=np.float32)).astype(dtype)
        )
        for name, transposed in weight.initializers:
            shape = constants[name].shape
            drawn[name] = np.ascontiguousarray(values.T if transposed else values).reshape(shape)
    twin = pipeline.pack(model, drawn)
    twin.metadata["graphclone.trained"] = '{"initialised": "at random"}'
    return twin
