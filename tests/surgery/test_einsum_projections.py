"""Heads and their dimensions as two axes of a weight: projections by Einsum, as Keras, JAX and torch.einsum write."""

from __future__ import annotations

import numpy as np
import pytest

from graphclone import feeds, graph, pipeline
from graphclone.anatomy.projections import _letters
from graphclone.planner import Target
from tests.hand_made import DIM, HEADS, HIDDEN, transformer, verified


def heads_apart(made, x, stem):
    parts = []
    for part in "qkv":
        weight = made.weight(f"{stem}.{part}", HIDDEN, HEADS, DIM)
        product = made.op("Einsum", x, weight, equation="btd,dhk->bthk")
        parts.append(made.op("Add", product, made.weight(f"{stem}.{part}.bias", HEADS, DIM)))
    q, k, v = parts
    scores = made.op("Mul", made.op("Einsum", q, k, equation="bqhk,bshk->bhqs"), made.constant(DIM**-0.5, np.float32))
    context = made.op("Einsum", made.op("Softmax", scores, axis=-1), v, equation="bhqs,bshk->bqhk")
    return made.op("Einsum", context, made.weight(f"{stem}.o", HEADS, DIM, HIDDEN), equation="bthk,hkd->btd")


def test_heads_are_told_from_their_dimensions():
    anatomy = pipeline.inspect(graph.from_proto(transformer(heads_apart)))
    for block in anatomy.stacks[0].blocks:
        (part,) = block.attention
        assert (part.heads, part.kv_heads, part.head_dim, part.v_dim) == (HEADS, HEADS, DIM, DIM)
        assert [weights for weights in (part.q, part.k, part.v, part.o) if len(weights) != 1] == []
        assert len({*part.q, *part.k, *part.v, *part.o}) == 4
        assert anatomy.groups[part.head_groups[0]].kind == "head"


@pytest.mark.parametrize("target", [{"heads": 2}, {"hidden": 8}, {"heads": 2, "hidden": 8, "ffn": 12}], ids=str)
def test_clones_equal_the_zeroed_parent(target):
    verified(transformer(heads_apart), **target)


def test_heads_are_scored_by_what_was_measured():
    model = graph.from_proto(transformer(heads_apart))
    anatomy = pipeline.inspect(model)
    constants = model.constants()
    for layer in range(3):  # the second head writes the most, the first but little
        written = constants[f"{layer}.attention.o"].copy()
        written *= np.array([0.01, 9.0, 0.1, 1.0], np.float32)[:, None, None]
        tensor = model.graph.tensors()[f"{layer}.attention.o"]
        tensor.values = written
    fed = [feeds.tiny_feeds(model, 4, 16, seed=k) for k in range(2)]
    statistics = pipeline.measure(model, fed, anatomy=anatomy, threads=1)
    plan = pipeline.plan(anatomy, statistics, Target(heads=2))
    kept = [plan.keep[name] for name in plan.keep if anatomy.groups[name].kind == "head"]
    assert len(kept) == 3
    assert all(1 in heads and 0 not in heads for heads in kept)


@pytest.mark.parametrize(
    ("equation", "operand"),
    [("btd,dhk->bthk", 0), ("dhk,btd->bthk", 1), ("bthk,hkd->btd", 0), ("hkd,bthk->btd", 1), ("btd,dhk->bhtk", 0)],
)
def test_axes_by_their_letters(equation, operand):
    """What the first letter read and the last written stand for, wherever they are."""
    axes = _letters(equation, operand)
    left, _, out = equation.partition("->")
    given, weight = left.split(",")[operand], left.split(",")[1 - operand]
    assert given[axes.input] == weight[axes.read[0]]
    assert out[axes.output] == weight[axes.written[-1]]
    assert {weight[k] for k in axes.read}.isdisjoint(out)
    assert {weight[k] for k in axes.written}.isdisjoint(given)


@pytest.mark.parametrize("equation", ["btd,d->btd", "ebd,edf->ebdf", "abc,abc->abc"])
def test_what_contracts_nothing_is_no_projection(equation):
    assert _letters(equation, 0) is None
