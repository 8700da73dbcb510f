"""What fused attentions do inside, of which ONNX Runtime has no kernel for processors: by the trace alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.planner import Target
from graphclone.surgery.operate import clone
from tests.surgery.tied import HEADS, HIDDEN, Decoder, assembled

WIDTH = HIDDEN // HEADS
NORMED = {14: "q_norm", 15: "k_norm"}
SCALED = {12: "k_scale", 13: "v_scale"}


@dataclass
class Grouped(Decoder):
    """GroupQueryAttention; ``more``: further inputs by their place, each a number a dimension of a head."""

    more: dict[int, str] = field(default_factory=dict)

    def attention(self, x, i):
        h = self.norm(x, f"before{i}")
        read = [self.add("MatMul", [h, self.weight(f"{n}{i}", HIDDEN, HIDDEN)], f"{n}{i}.flat") for n in "qkv"]
        self.weights |= {"last": np.array([5, 5], np.int32), "total": np.array(6, np.int32)}
        inputs = [*read, "", "", "last", "total", *([""] * 9)]
        for place, name in self.more.items():
            inputs[place] = self.weight(f"{name}{i}", WIDTH)
        while not inputs[-1]:
            inputs.pop()
        counts = {"num_heads": HEADS, "kv_num_heads": HEADS}
        made = onnx.helper.make_node(
            "GroupQueryAttention", inputs, [f"c{i}"], f"g{i}", domain="com.microsoft", **counts
        )
        self.nodes.append(made)
        out = self.add("MatMul", [f"c{i}", self.weight(f"o{i}", HIDDEN, HIDDEN)], f"attended{i}")
        return self.add("Add", [x, out], f"middle{i}")


@dataclass
class Packed(Decoder):
    """ONNX Runtime's own Attention, which turns queries and keys where ``rotary`` says so."""

    rotary: int = 0

    def attention(self, x, i):
        inputs = [
            self.norm(x, f"before{i}"),
            self.weight(f"qkv{i}", HIDDEN, 3 * HIDDEN),
            self.weight(f"b{i}", 3 * HIDDEN),
        ]
        counts = {"num_heads": HEADS, "do_rotary": self.rotary}
        self.nodes.append(
            onnx.helper.make_node("Attention", inputs, [f"c{i}"], f"a{i}", domain="com.microsoft", **counts)
        )
        out = self.add("MatMul", [f"c{i}", self.weight(f"o{i}", HIDDEN, HIDDEN)], f"attended{i}")
        return self.add("Add", [x, out], f"middle{i}")


def test_gains_of_normed_queries_and_keys_are_cut_with_their_dimensions():
    model = assembled(Grouped(more=NORMED))
    anatomy = inspect(model)
    plan = pipeline.plan(anatomy, None, Target(head_dim=2), importance="uniform", method="none")
    before, after = model.constants(), clone(model, anatomy, plan).constants()
    for i in range(2):
        (kept,) = (np.array(k) for n, k in plan.keep.items() if n == f"blocks.{i}.qk_dim")
        for name in ("q", "k"):
            assert np.array_equal(after[f"{name}_norm{i}"], before[f"{name}_norm{i}"][kept])
            whole = before[f"{name}{i}"].reshape(HIDDEN, HEADS, WIDTH)[:, :, kept]
            assert np.array_equal(after[f"{name}{i}"], whole.reshape(HIDDEN, -1))


def test_scales_of_a_quantised_cache_are_refused():
    with pytest.raises(UnsupportedGraph, match=r"GroupQueryAttention node 'g0': input 12 .* is not understood"):
        inspect(assembled(Grouped(more=SCALED)))


def test_dimensions_that_are_turned_without_tables_stay():
    pipeline.plan(inspect(assembled(Packed())), None, Target(head_dim=2), importance="uniform")
    with pytest.raises(InvalidTarget, match=r"rotated inside com\.microsoft\.Attention node 'a0'"):
        pipeline.plan(inspect(assembled(Packed(rotary=1))), None, Target(head_dim=2), importance="uniform")
