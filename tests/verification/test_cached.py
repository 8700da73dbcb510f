"""Blocks that are dropped from a graph with caches: the caches that are left get other numbers, the stream does not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone.graph import Model
from graphclone.verification.joins import joins


def cached(blocks: tuple[int, ...], branch: str = "Add") -> Model:
    """Blocks x + x * w, whose products are handed out as present.N."""
    stream = x = gs.Variable("x", np.float32, [2, 4])
    nodes, caches = [], []
    for place, block in enumerate(blocks):
        product = gs.Variable(f"product.{block}", np.float32)
        after = gs.Variable("y" if block == blocks[-1] else f"stream.{block}", np.float32)
        caches.append(gs.Variable(f"present.{place}", np.float32))
        weight = gs.Constant(f"w.{block}", np.ones(4, np.float32))
        nodes.append(gs.Node("Mul", inputs=[stream, weight], outputs=[product]))
        nodes.append(gs.Node("Identity", inputs=[product], outputs=[caches[-1]]))
        nodes.append(gs.Node(branch, inputs=[stream, product], outputs=[after]))
        stream = after
    return Model(gs.Graph(nodes, inputs=[x], outputs=[stream, *caches]))


@pytest.mark.parametrize(("branch", "stopped"), [("Add", False), ("Sub", True)])
def test_a_cache_with_another_number_is_no_stream_that_a_block_changes(branch: str, stopped: bool) -> None:
    found = list(joins(cached((0, 1, 2), branch), cached((1, 2), branch)))
    assert bool(found) == stopped
