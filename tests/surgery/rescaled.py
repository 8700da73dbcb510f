"""The parent that a clone with narrower heads has to equal."""

from __future__ import annotations

import numpy as np

from graphclone.anatomy.parts import AxisRef
from tests.surgery.parents import dropped, with_constants, zeroed


def rescaled(found, keep, factor):
    """The parent whose dropped dimensions of queries, keys and values are zero, and its scores times ``factor``: the
    kept dimensions at the clone's own scale. Queries and keys take a root of it each, so a weight may hold both."""
    model = zeroed(found, {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "v_dim"})
    dims = {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "qk_dim"}
    values = {}
    for block in found.anatomy.stacks[0].blocks:
        for attention in block.attention:
            for weights in {attention.q, attention.k}:
                for ref in with_biases(found, weights):
                    array = np.moveaxis(model.constants()[ref.tensor].copy(), ref.axis, -1)
                    array[..., turned(found, ref, dims)] *= np.float32(np.sqrt(factor))
                    array[..., dropped(found.anatomy, ref, dims)] = 0
                    values[ref.tensor] = np.moveaxis(array, -1, ref.axis)
    return with_constants(model, values)


def turned(found, ref, dims):
    """Which positions are of queries and keys."""
    return np.any([neurons >= 0 for name, neurons in found.anatomy.axes[ref] if name in dims], axis=0)


def with_biases(found, weights):
    """Where a projection writes: an axis of its matrix, and the bias that is added next."""
    (matrix,) = weights
    (linear,) = [ln for ln in found.anatomy.linears if ln.weight == matrix]
    made = next(n for n in found.model.graph.nodes for t in n.outputs if t.name == linear.output)
    beside = [t for n in (made, *made.outputs[0].outputs) for t in n.inputs if n.op in ("Add", "Gemm")]
    constants = found.model.constants()
    biases = [t.name for t in beside if t.name in constants and constants[t.name].ndim == 1]
    return [AxisRef(matrix, linear.out_axis), *(AxisRef(name, 0) for name in biases)]
