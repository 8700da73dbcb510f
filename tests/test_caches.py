"""The sizes of a cache that leaves them open come from the attention that reads it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import feeds
from graphclone.caches import cache_shape
from graphclone.graph import Model

DECLARED = ["batch", 2, "past", "kv_cache_dim"]


def model(packed, declared=None):
    """6 query heads on 2 KV heads, 16 wide, between a projection and a cache."""
    columns = (6 + 2 * 2) * 16 if packed else 6 * 16
    x, query = gs.Variable("x", np.float32, ["batch", "length", 8]), gs.Variable("query", np.float32, declared)
    past = [gs.Variable(f"past.{n}", np.float32, list(DECLARED)) for n in ("key", "value")]
    parts = [gs.Variable.empty(), gs.Variable.empty()] if packed else [gs.Variable(n, np.float32) for n in "kv"]
    weights = {t.name: gs.Constant(f"w{t.name}", np.ones((8, 2 * 16), np.float32)) for t in parts if t.name}
    nodes = [gs.Node("MatMul", inputs=[x, gs.Constant("w", np.ones((8, columns), np.float32))], outputs=[query])]
    nodes += [gs.Node("MatMul", inputs=[x, weights[t.name]], outputs=[t]) for t in parts if t.name]
    attention = gs.Node(
        "GroupQueryAttention",
        attrs={"num_heads": 6, "kv_num_heads": 2},
        inputs=[query, *parts, *past],
        outputs=[gs.Variable("y", np.float32)],
        domain="com.microsoft",
    )
    return Model(gs.Graph(nodes=[*nodes, attention], inputs=[x, *past], outputs=attention.outputs, opset=17))


@pytest.mark.parametrize("packed", [True, False])
def test_from_the_projection(packed):
    fed = feeds.tiny_feeds(model(packed), 3, 5)
    assert fed["past.key"].shape == fed["past.value"].shape == (3, 2, 0, 16)


def test_from_the_declared_shape():
    past = model(True, ["batch", "length", 10 * 24]).graph.inputs[1]
    assert cache_shape(past, tuple(DECLARED)) == ("batch", 2, "past", 24)


def test_the_ring_of_a_sliding_window_is_as_long_as_the_window():
    given = model(True)
    given.graph.nodes[-1].attrs |= {"local_window_size": 5, "sliding_window_cache": 1}
    assert feeds.tiny_feeds(given, 3, 7)["past.key"].shape == (3, 2, 5, 16)


def test_a_known_width_and_another_operator_are_left_alone():
    given = model(True)
    assert cache_shape(given.graph.inputs[1], ("batch", 2, "past", 32)) == ("batch", 2, "past", 32)
    assert cache_shape(given.graph.inputs[0], tuple(DECLARED)) == tuple(DECLARED)
