"""The parent that a clone with narrower heads has to equal."""

from __future__ import annotations

import numpy as np

from graphclone.anatomy.parts import AxisRef
from tests.surgery.parents import dropped, with_constants, zeroed


def rescaled(found, keep, factor):
    """The parent whose dropped dimensions of queries and values are zero, and its queries times ``factor``: the scores
    of the kept dimensions at the clone's own scale."""
    model = zeroed(found, {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "v_dim"})
    dims = {n: k for n, k in keep.items() if found.anatomy.groups[n].kind == "qk_dim"}
    values = {}
    for block in found.anatomy.stacks[0].blocks:
        for attention in block.attention:
            for ref in with_biases(found, attention.q):
                array = np.moveaxis(model.constants()[ref.tensor].copy(), ref.axis, -1)
                width = (
                    array.shape[-1] // 3 if attention.q == attention.k else array.shape[-1]
                )  # GPT-2 packs q, k and v
                array[..., :width] *= np.float32(factor)
                array[..., dropped(found.anatomy, ref, dims) & (np.arange(array.shape[-1]) < width)] = 0
                values[ref.tensor] = np.moveaxis(array, -1, ref.axis)
    return with_constants(model, values)


def with_biases(found, weights):
    """Where a projection writes: an axis of its matrix, and the bias that is added next."""
    (matrix,) = weights
    (linear,) = [ln for ln in found.anatomy.linears if ln.weight == matrix]
    made = next(n for n in found.model.graph.nodes for t in n.outputs if t.name == linear.output)
    beside = [t for n in (made, *made.outputs[0].outputs) for t in n.inputs if n.op in ("Add", "Gemm")]
    constants = found.model.constants()
    biases = [t.name for t in beside if t.name in constants and constants[t.name].ndim == 1]
    return [AxisRef(matrix, linear.out_axis), *(AxisRef(name, 0) for name in biases)]
