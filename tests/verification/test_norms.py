"""A norm over channels that were cut is found, a cut beside it is not taken for one."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone.graph import Model
from graphclone.verification.norms import narrowed


def normed(op, queries, inner=6):
    """Queries of a width, normed across all heads, then a feed-forward whose inner width no norm sees."""
    x, y = gs.Variable("x", np.float32, ["batch", 8]), gs.Variable("y", np.float32)
    made, wide, out = (gs.Variable(n, np.float32) for n in ("queries", "wide", "out"))

    def weight(name, *sizes):
        return gs.Constant(name, np.ones(sizes, np.float32))

    project = gs.Node("MatMul", inputs=[x, weight("q", 8, queries)], outputs=[made])
    if op == "ReduceMean":
        norm = gs.Node(op, attrs={"axes": [-1], "keepdims": 1}, inputs=[made], outputs=[y])
        wide_from = weight("up", 1, inner)
    else:
        norm = gs.Node(op, inputs=[made, weight("gain", queries)], outputs=[y])
        wide_from = weight("up", queries, inner)
    up = gs.Node("MatMul", inputs=[y, wide_from], outputs=[wide])
    down = gs.Node("MatMul", inputs=[wide, weight("down", inner, 8)], outputs=[out])
    return Model(gs.Graph(nodes=[project, norm, up, down], inputs=[x], outputs=[out], opset=17, ir_version=8))


@pytest.mark.parametrize("op", ["ReduceMean", "LayerNormalization"])
def test_a_narrower_norm_is_named(op):
    assert narrowed(normed(op, 8), normed(op, 4)) == "y"
    assert narrowed(normed(op, 8), normed(op, 8, inner=3)) is None, "the inner width is no norm's"
