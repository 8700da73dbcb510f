"""Scores are the formulas of the table, computed here by hand."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from graphclone.anatomy.parts import Linear, NeuronGroup, Site
from graphclone.errors import InvalidTarget
from graphclone.statistics import run
from graphclone.statistics.evidence import Evidence
from graphclone.statistics.importance import TABLE, score, select
from graphclone.statistics.store import Statistics


@pytest.fixture
def measured(hand, batches):
    model = hand.model()
    anatomy = hand.anatomy(model)
    return model, anatomy, run.measure(model, anatomy, batches, provider="cpu")


def concatenated(hand, batches):
    each = [hand.activations(batch) for batch in batches]
    return {site: np.concatenate([a[site] for a in each]) for site in each[0]}


@pytest.mark.parametrize(("name", "power"), [("paper", 1), ("energy", 2)])
def test_the_stream_is_summed_over_its_writers_and_the_ffn_is_its_own(hand, batches, measured, name, power):
    _, anatomy, statistics = measured
    values = {site: (np.abs(a) ** power).mean(0) for site, a in concatenated(hand, batches).items()}
    found = score(name, anatomy, statistics)
    assert set(found) == {"residual", "blocks.0.ffn"}
    np.testing.assert_allclose(found["residual"], values["embedding.out"] + values["blocks.0.ffn.out"], rtol=1e-6)
    np.testing.assert_allclose(found["blocks.0.ffn"], values["blocks.0.ffn.in"], rtol=1e-6)


def test_heads_are_scored_by_the_mean_over_their_positions(measured):
    """Context of 2 KV heads x 3 queries x 2 dimensions; the last position belongs to no head."""
    _, anatomy, _ = measured
    positions = np.arange(12)
    kv_head, group = positions // 6, positions // 2 % 3
    kv_head = np.where(positions == 11, -1, kv_head)
    site = Site("blocks.0.attention.in", "inner", "c", -1, 12, 0, {"kv": kv_head, "queries": group})
    groups = {n: NeuronGroup(n, k, s, ()) for n, k, s in (("kv", "kv_head", 2), ("queries", "group", 3))}
    held = replace(anatomy, sites=(site,), groups=groups)
    sums = {"abs": positions.astype(float) * 4, "square": positions.astype(float), "count": np.asarray(4)}
    found = score("paper", held, Statistics(anatomy.fingerprint, {site.name: sums}, 1, ()))
    np.testing.assert_allclose(found["kv"], [2.5, 8.0])
    np.testing.assert_allclose(found["queries"], [(0 + 1 + 6 + 7) / 4, (2 + 3 + 8 + 9) / 4, (4 + 5 + 10 + 11) / 4])


def test_feed_forward_neurons_count_by_what_they_write(hand, batches, measured):
    model, anatomy, statistics = measured
    a = concatenated(hand, batches)["blocks.0.ffn.in"]
    down = hand.weights["down"].astype(np.float64)
    expected = {
        "equal-vote": (a**2).mean(0) * (down**2).sum(1),
        "wanda": np.sqrt((a**2).mean(0)) * np.abs(down).sum(1),
        "fluctuation": a.var(0) * (down**2).sum(1),
        "variance": a.var(0),
        "l2": np.sqrt((a**2).mean(0)),
    }
    for name, scores in expected.items():
        found = score(name, anatomy, statistics, model.constants())["blocks.0.ffn"]
        np.testing.assert_allclose(found, scores, rtol=1e-5, err_msg=name)


@pytest.fixture
def normed(measured):
    """The hand-made anatomy with two norms in its block and one behind it, and sums made up for them."""
    model, anatomy, statistics = measured
    rng = np.random.default_rng(3)
    along = {"residual": np.arange(6)}
    names = {"blocks.0.norm.0": 0, "blocks.0.norm.1": 0, "norm": None}
    sites = tuple(Site(name, "norm", name, -1, 6, block, along) for name, block in names.items())
    made = {
        name: {"abs": rng.random(6), "sum": rng.random(6), "square": 1 + rng.random(6), "count": np.asarray(1)}
        for name in names
    }
    return (
        model,
        replace(anatomy, sites=anatomy.sites + sites),
        replace(statistics, sites={**statistics.sites, **made}),
        made,
    )


def test_every_norm_has_one_vote_on_the_stream(normed):
    model, anatomy, statistics, made = normed
    found = score("equal-vote", anatomy, statistics, model.constants())["residual"]
    np.testing.assert_allclose(found, np.mean([held["square"] for held in made.values()], axis=0))
    found = score("l2", anatomy, statistics)["residual"]
    np.testing.assert_allclose(found, np.sum([np.sqrt(held["square"]) for held in made.values()], axis=0))


@pytest.mark.parametrize(("name", "power"), [("wanda", 1), ("fluctuation", 2)])
def test_the_stream_counts_by_the_weights_that_read_it(hand, normed, name, power):
    """The only product that reads it is in the block: what it reads is the mean of the block's two norms."""
    model, anatomy, statistics, made = normed
    held = [made["blocks.0.norm.0"], made["blocks.0.norm.1"]]
    read = [np.sqrt(h["square"]) if power == 1 else h["square"] - h["sum"] ** 2 for h in held]
    weight = (np.abs(hand.weights["up"].astype(np.float64)) ** power).sum(1)
    found = score(name, anatomy, statistics, model.constants())["residual"]
    np.testing.assert_allclose(found, np.mean(read, axis=0) * weight, rtol=1e-6)


@pytest.mark.parametrize("moments", [True, False])
def test_heads_count_by_what_they_write_a_kv_group_at_a_time(measured, moments):
    """tr(W S W^T) over the positions of each head; heads of a group do not share products."""
    _, anatomy, _ = measured
    rng = np.random.default_rng(5)
    positions = np.arange(12)  # 2 KV heads x 3 queries x 2 dimensions
    kv_head, group = positions // 6, positions // 2 % 3
    site = Site("blocks.0.attention.in", "inner", "c", -1, 12, 0, {"kv": kv_head, "queries": group})
    groups = {n: NeuronGroup(n, k, s, ()) for n, k, s in (("kv", "kv_head", 2), ("queries", "group", 3))}
    linear = Linear("o", "wo", 0, 1, ("kv", "queries"), ("residual",), "c", "y")
    held = replace(anatomy, sites=(site,), groups=groups, linears=(linear,))
    a, weight = rng.standard_normal((50, 12)), rng.standard_normal((12, 6)).astype(np.float32)
    sums = {"square": (a**2).sum(0), "count": np.asarray(50)} | ({"moment": a.T @ a} if moments else {})
    found = score("equal-vote", held, Statistics(anatomy.fingerprint, {site.name: sums}, 1, ()), {"wo": weight})
    write = weight.astype(np.float64)
    by_head = np.array([((a[:, 2 * h : 2 * h + 2] @ write[2 * h : 2 * h + 2]) ** 2).sum() / 50 for h in range(6)])
    if not moments:
        alone = (a**2).mean(0) * (write**2).sum(1)
        by_head = alone.reshape(6, 2).sum(1)
    np.testing.assert_allclose(found["kv"], by_head.reshape(2, 3).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found["queries"], by_head.reshape(2, 3).sum(0), rtol=1e-5)


STORED = {
    "float16": (np.float16, None),
    "bfloat16": (ml_dtypes.bfloat16, None),
    "int8": (np.int8, np.float32([0.02])),
    "uint8": (np.uint8, np.float32([0.02])),
    "int8, a scale a channel": (np.int8, np.linspace(0.01, 0.03, 7, dtype=np.float32)),
}


@pytest.mark.parametrize("stored", STORED)
def test_weights_count_as_the_numbers_they_stand_for(measured, stored, monkeypatch):
    _, anatomy, _ = measured
    dtype, scale = STORED[stored]
    real = np.random.default_rng(1).standard_normal((5, 7))
    zero = 128 if dtype is np.uint8 else 0
    weights = {"w_quantized": real.astype(dtype)}
    if scale is not None:
        weights["w_quantized"] = (np.round(real / scale).clip(-100, 100) + zero).astype(dtype)
        real = (weights["w_quantized"].astype(np.float64) - zero) * scale.astype(np.float64)
        weights |= {"w_scale": scale, "w_zero_point": np.full(scale.shape, zero, dtype)}
    else:
        real = weights["w_quantized"].astype(np.float64)
    evidence = Evidence(anatomy, None, weights)
    for at_once in (1 << 24, 14):  # elements: all at a time, two rows at a time
        monkeypatch.setattr("graphclone.statistics.evidence.AT_ONCE", at_once)
        for axis in (0, 1):
            for power in (1, 2):
                expected = (np.abs(real) ** power).sum(1 - axis)
                np.testing.assert_allclose(evidence.along("w_quantized", axis, power), expected, rtol=1e-5)
    linear = Linear("n", "w_quantized", 1, 0, (), (), "", "")
    np.testing.assert_allclose(evidence.columns(linear, np.array([1, 4])), real[:, [1, 4]], rtol=1e-5)


def test_magnitude_is_the_norm_over_every_axis_of_the_group(hand, measured):
    model, anatomy, _ = measured
    found = score("magnitude", anatomy, None, model.constants())
    w = {name: array.astype(np.float64) for name, array in hand.weights.items()}
    expected = np.sqrt((w["embed"] ** 2).sum(0) + (w["down"] ** 2).sum(0))
    np.testing.assert_allclose(found["residual"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        found["blocks.0.ffn"], np.sqrt((w["up"] ** 2).sum(0) + (w["down"] ** 2).sum(1)), rtol=1e-6
    )


@pytest.mark.parametrize("name", sorted(TABLE))
def test_each_row_scores_what_can_be_cut_and_keeps_the_number_asked(measured, name):
    model, anatomy, statistics = measured
    found = score(name, anatomy, statistics, model.constants())
    assert set(found) == {"residual", "blocks.0.ffn"}
    for group, scores in found.items():
        size = anatomy.groups[group].size
        assert scores.shape == (size,)
        assert np.isfinite(scores).all()
        for count in range(1, size + 1):
            kept = select(name, scores, count)
            assert kept.shape == (count,)
            assert (np.diff(kept) > 0).all()
            assert 0 <= kept[0] <= kept[-1] < size


def test_the_highest_are_kept_and_of_equals_the_first():
    assert select("paper", np.array([1.0, 5.0, 3.0, 5.0, 5.0]), 2).tolist() == [1, 3]
    assert select("first", -np.arange(5.0), 3).tolist() == [0, 1, 2]
    assert select("uniform", np.zeros(9), 3).tolist() == [0, 3, 6]


def test_random_follows_its_seed_alone(measured):
    _, anatomy, _ = measured
    first, again, other = (score(n, anatomy, None)["residual"] for n in ("random", "random:0", "random:1"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    fewer = replace(anatomy, groups={"residual": anatomy.groups["residual"]})
    np.testing.assert_array_equal(score("random", fewer, None)["residual"], first)


def test_what_is_missing_is_named(measured):
    _, anatomy, statistics = measured
    with pytest.raises(InvalidTarget, match="importance 'best' is not one of paper, equal-vote, l2"):
        score("best", anatomy, statistics)
    with pytest.raises(InvalidTarget, match="is not one of"):
        score("paper:3", anatomy, statistics)
    with pytest.raises(
        InvalidTarget,
        match=r"paper needs statistics: .*--data.* none: magnitude, first, uniform, random$",
    ):
        score("paper", anatomy, None)
    with pytest.raises(InvalidTarget, match="needs the parent's weights"):
        score("magnitude", anatomy, None)
    with pytest.raises(InvalidTarget, match="another parent"):
        score("first", anatomy, replace(statistics, parent="00" * 32))
    with pytest.raises(InvalidTarget, match=r"lack the site blocks\.0\.ffn\.in: measure again"):
        score("paper", anatomy, replace(statistics, sites={}))
