"""Scores are the formulas of the table, computed here by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphclone.anatomy.parts import NeuronGroup, Site
from graphclone.errors import InvalidTarget
from graphclone.statistics import run
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
    with pytest.raises(InvalidTarget, match="importance 'best' is not one of paper, energy"):
        score("best", anatomy, statistics)
    with pytest.raises(InvalidTarget, match="is not one of"):
        score("paper:3", anatomy, statistics)
    with pytest.raises(InvalidTarget, match="paper needs statistics: measure first, or choose one of first, uniform"):
        score("paper", anatomy, None)
    with pytest.raises(InvalidTarget, match="needs the parent's weights"):
        score("magnitude", anatomy, None)
    with pytest.raises(InvalidTarget, match="another parent"):
        score("first", anatomy, replace(statistics, parent="00" * 32))
    with pytest.raises(InvalidTarget, match=r"lack the site blocks\.0\.ffn\.in: measure again"):
        score("paper", anatomy, replace(statistics, sites={}))
