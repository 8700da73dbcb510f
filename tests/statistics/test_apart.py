"""Batches set apart: every fifth counts like all others, and once more beside, to judge a fit by second moments."""

from __future__ import annotations

import numpy as np

import models
from graphclone import feeds, graph
from graphclone.anatomy import inspect
from graphclone.statistics import run
from graphclone.statistics.store import Statistics


def parent():
    model = graph.load(models.cached("gpt2", exporter="dynamo"))
    anatomy = inspect(model)
    data = [feeds.tiny_feeds(model, 2, 5, seed=np.random.SeedSequence([3, k])) for k in range(11)]
    return model, anatomy, data, [s.name for s in anatomy.sites if s.kind == "inner"]


def test_the_fifth_and_the_tenth_batch_are_summed_once_more():
    model, anatomy, data, inner = parent()
    whole = run.measure(model, anatomy, data, threads=1, moments=True)
    alone = run.measure(model, anatomy, [data[4], data[9]], threads=1, moments=True)
    plain = run.measure(model, anatomy, data, threads=1)
    for site in inner:
        held, part = whole.sites[site], alone.sites[site]
        assert (
            held["unseen_moment_count"].tolist() == part["moment_count"].tolist() == [2 * 2 * 3]
        )  # 2 x 5 tokens a batch
        for name in ("moment", "moment_sum"):
            np.testing.assert_allclose(held[f"unseen_{name}"], part[name], rtol=1e-12)
            assert not np.allclose(held[f"unseen_{name}"], held[name])
        np.testing.assert_array_equal(held["square"], plain.sites[site]["square"])
    assert not any(name.startswith("unseen") for held in plain.sites.values() for name in held)


def test_they_add_up_and_are_kept_on_disk(tmp_path):
    model, anatomy, data, inner = parent()
    whole = run.measure(model, anatomy, data[:10], threads=1, moments=True)
    halves = [run.measure(model, anatomy, part, threads=1, moments=True) for part in (data[:5], data[5:10])]
    halves[0].save(tmp_path / "one.safetensors")
    added = Statistics.read(tmp_path / "one.safetensors").merge(halves[1])
    for site in inner:
        for name in ("unseen_moment", "unseen_moment_sum", "unseen_moment_count"):
            np.testing.assert_allclose(added.sites[site][name], whole.sites[site][name], rtol=1e-12)
