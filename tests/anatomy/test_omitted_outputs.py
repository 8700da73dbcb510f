"""Outputs that a node leaves unnamed are no tensor that another node's omitted inputs would read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.planner import Target
from tests.surgery.parents import session
from tests.surgery.tied import HEADS, HIDDEN, LAYERS, VOCAB, Decoder, assembled
from tests.tolerances import assert_close


@dataclass
class Fused(Decoder):
    """Attention in one operator, with ``more`` inputs and outputs that are not there."""

    more: tuple[str, ...] = ()

    def attention(self, x, i):
        h = self.norm(x, f"before{i}")
        read = [self.add("MatMul", [h, self.weight(f"{n}{i}", HIDDEN, HIDDEN)], f"{n}{i}.flat") for n in "qkv"]
        made = [f"context{i}", *self.more]
        self.nodes.append(
            onnx.helper.make_node(
                "MultiHeadAttention", [*read, *self.more], made, f"fused{i}", domain="com.microsoft", num_heads=HEADS
            )
        )
        out = self.add("MatMul", [f"context{i}", self.weight(f"o{i}", HIDDEN, HIDDEN)], f"attended{i}")
        return self.add("Add", [x, out], f"middle{i}")


def test_blocks_are_found_where_caches_are_left_out():
    plain, omitted = (assembled(Fused(more=more)) for more in ((), ("", "")))
    clones = []
    for model in (plain, omitted):
        anatomy = inspect(model)
        assert [len(s.blocks) for s in anatomy.stacks] == [LAYERS]
        plan = pipeline.plan(anatomy, None, Target(layers=1, heads=1), importance="first", method="none")
        clones.append(pipeline.clone(model, plan, anatomy=anatomy))
        pipeline.verify(model, clones[-1], plan).raise_if_failed()
    ids = {"input_ids": np.random.default_rng(0).integers(0, VOCAB, (2, 7))}
    assert_close(*(session(made).run(None, ids)[0] for made in clones))
