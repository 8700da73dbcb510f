"""Second moments, blocks, the second pass and where sums are kept: against NumPy on a parent made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Norm, Site
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.statistics import moments, run
from graphclone.statistics.places import first_pass, norms_by_site
from graphclone.statistics.probe import Probe
from tests.tolerances import STATISTICS
from tools import measured

EPSILON = 1e-3  # large, so that leaving it out shows
CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def concatenated(hand, batches):
    each = [hand.activations(batch) for batch in batches]
    return {site: np.concatenate([a[site] for a in each]) for site in each[0]}


def close(found, expected, size=None):
    allowed = STATISTICS * (np.abs(expected) if size is None else size) + np.finfo(np.float32).tiny
    np.testing.assert_array_less(np.abs(found - expected), allowed)


@pytest.mark.parametrize("flat", [False, True])
def test_second_moments_are_sums_of_outer_products(hands, batches, flat):
    hand = hands(flat=flat)
    model = hand.model()
    found = run.measure(model, hand.anatomy(model), batches, provider="cpu", moments=True)
    second = [{name: array[:, :: moments.STEP] for name, array in batch.items()} for batch in batches]
    a = concatenated(hand, second)["blocks.0.ffn.in"]
    held = found.sites["blocks.0.ffn.in"]
    close(held["moment"], a.T @ a, np.abs(a).T @ np.abs(a))
    np.testing.assert_array_equal(held["moment"], held["moment"].T)
    close(held["moment_sum"], a.sum(0), np.abs(a).sum(0))
    assert held["moment_count"].tolist() == [len(a)]
    close(found.mean("blocks.0.ffn.in", "moment"), a.T @ a / len(a), np.abs(a).T @ np.abs(a) / len(a))
    assert "moment" not in found.sites["blocks.0.ffn.out"]


@pytest.mark.parametrize("width", [7, 192, 500, 1536])
def test_tiles_are_the_upper_triangle_of_a_matrix(width):
    rows = np.random.default_rng(0).standard_normal((20, width))
    whole = rows.T @ rows
    whole = (whole + whole.T) / 2
    tiles = moments.tiles(whole)
    assert [tile.shape for tile in tiles] == moments.tile_shapes(width)
    np.testing.assert_array_equal(moments.matrix(tiles, width), whole)


def test_second_moments_too_large_for_one_run_are_read_in_several(batches, monkeypatch, parent_file):
    model = graph.load(parent_file("llama", exporter="dynamo"))
    anatomy = inspect(model)
    data = measured.padded(model, 3)
    whole = run.measure(model, anatomy, data, provider="cpu", threads=1, moments=True)
    limit = max(moments.tile_bytes(site.width) for site in anatomy.sites if site.kind == "inner")
    monkeypatch.setattr("graphclone.statistics.moments.groups.__defaults__", (limit,))
    said = []
    parts = run.measure(
        model, anatomy, data, provider="cpu", threads=1, moments=True, progress=lambda *done: said.append(done)
    )
    assert said[-1][0] == said[-1][1] > 3
    assert set(parts.sites) == set(whole.sites)
    for site, held in whole.sites.items():
        assert set(parts.sites[site]) == set(held)
        for name, array in held.items():
            np.testing.assert_array_equal(parts.sites[site][name], array)
    with pytest.raises(BadData, match=r"need the data \d times"):
        run.measure(model, anatomy, iter(data), provider="cpu", moments=True)


def test_a_block_is_told_by_the_angle_and_the_length_of_what_it_adds(hand, batches):
    model = hand.model()
    found = run.measure(model, hand.anatomy(model), batches, provider="cpu").sites["blocks.0"]
    values = concatenated(hand, batches)
    x, f = values["embedding.out"], values["blocks.0.ffn.out"]
    before, after = np.linalg.norm(x, axis=1), np.linalg.norm(x + f, axis=1)
    close(found["cosine"], [((x * (x + f)).sum(1) / before / after).sum()])
    close(found["ratio"], [(np.linalg.norm(f, axis=1) / after).sum()])
    assert found["count"] == len(x)


def normed(hand, kind: str, *, axis: int = -1) -> tuple[Model, Anatomy]:
    """The hand-made parent with a norm to measure at its embedding, no node of which is in the graph."""
    model = hand.model()
    anatomy = hand.anatomy(model)
    site = Site("blocks.0.norm.0", "norm", "embedded", axis, 6, 0, {"residual": np.arange(6)})
    norm = Norm(kind, "pre", None, None, 6, "embedded", "", site.name, EPSILON)
    (stack,) = anatomy.stacks
    (block,) = stack.blocks
    stack = replace(stack, blocks=(replace(block, norms=(norm,)),))
    return model, replace(anatomy, stacks=(stack,), sites=(*anatomy.sites, site))


def by_hand(x, kind: str):
    x = x - x.mean(1, keepdims=True) if kind == "LayerNorm" else x
    return x / np.sqrt((x**2).mean(1, keepdims=True) + EPSILON)


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_norms_are_measured_without_gain_with_their_own_epsilon(hand, batches, kind):
    model, anatomy = normed(hand, kind)
    found = run.measure(model, anatomy, batches, provider="cpu").sites["blocks.0.norm.0"]
    u = by_hand(concatenated(hand, batches)["embedding.out"], kind)
    close(found["abs"], np.abs(u).sum(0))
    close(found["square"], (u**2).sum(0))
    close(found["sum"], u.sum(0), np.abs(u).sum(0))


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("kept", [(0, 2, 3, 5), (5, 0, 3)])
def test_the_second_pass_sums_both_normalisations_of_what_is_kept(hand, batches, kind, kept):
    model, anatomy = normed(hand, kind)
    plan = Plan(anatomy.fingerprint, {"residual": kept})
    found = run.measure_kept(model, anatomy, plan, batches, provider="cpu")
    assert set(found.sites) == {"blocks.0.norm.0"}
    x = concatenated(hand, batches)["embedding.out"]
    n, k = by_hand(x, kind)[:, kept], by_hand(x[:, kept], kind)
    for name, terms in {"n": n, "k": k, "n_square": n**2, "k_square": k**2, "nk": n * k}.items():
        close(found.sites["blocks.0.norm.0"][name], terms.sum(0), np.abs(terms).sum(0))
    nothing = Plan(anatomy.fingerprint, {})
    gone = Plan(anatomy.fingerprint, {"residual": kept}, {"blocks": (0,)})
    for plan in (nothing, gone):
        with pytest.raises(InvalidTarget, match="there is nothing to correct at its norms"):
            run.measure_kept(model, anatomy, plan, batches, provider="cpu")


def test_the_second_pass_of_a_seeded_export_equals_float64(seeded_parent):
    model = graph.load(seeded_parent)
    anatomy = inspect(model)
    width = anatomy.groups["residual"].size
    plan = Plan(anatomy.fingerprint, {"residual": tuple(range(0, width, 2))}, {"blocks": (1,)})
    worst = measured.kept(model, anatomy, plan, measured.padded(model))
    assert set(worst) == {"n", "k", "n_square", "k_square", "nk"}
    assert max(worst.values()) < STATISTICS
    everywhere = set(norms_by_site(anatomy))
    found = run.measure_kept(model, anatomy, plan, measured.padded(model), provider="cpu", threads=1)
    assert everywhere - set(found.sites) == {"blocks.1.norm.0", "blocks.1.norm.1"}


def probes(model: Model, anatomy: Anatomy, provider: str = "cpu") -> list[Probe]:
    """One that adds on the host, and one that keeps its sums where the graph runs."""
    inner = [site.name for site in anatomy.sites if site.kind == "inner"]
    return [
        Probe.at(model, first_pass(anatomy, inner), provider=where, threads=1, judged=inner, on_device=on_device)
        for where, on_device in (("cpu", False), (provider, True))
    ]


def test_sums_kept_on_the_device_are_those_added_on_the_host(seeded_parent):
    model = graph.load(seeded_parent)
    host, device = probes(model, inspect(model))
    for number, batch in enumerate(measured.padded(model, 4)):
        if number == 3:  # gone on with
            device.start(device.sums())
        for probe in (host, device):
            probe.add(batch, "batch", unseen=number == 1)
    found = device.sums()
    for site, held in host.sums().items():
        assert set(found[site]) == set(held)
        for name, array in held.items():
            np.testing.assert_array_equal(found[site][name], array, err_msg=f"{site} {name}")
    assert set(device.session.placement) == {"CPUExecutionProvider"}


def test_a_batch_that_is_not_finite_leaves_the_sums_on_the_device_as_they_were(hand, batches):
    model = hand.model()
    embed = next(n for n in model.graph.nodes if n.name == "embedding").inputs[0]
    embed.values = embed.values.copy()
    embed.values[42] = np.inf
    for batch in batches:
        batch["input_ids"][batch["input_ids"] == 42] = 41
    _, device = probes(model, hand.anatomy(model))
    device.add(batches[0], "batch 1")
    before = device.sums()
    batches[1]["input_ids"][1, 2] = 42
    with pytest.raises(BadData, match=r"batch 2: the activations at embedding\.out are not finite"):
        device.add(batches[1], "batch 2")
    after = device.sums()
    assert all(np.array_equal(after[s][k], before[s][k]) for s in before for k in before[s])
    batches[1]["input_ids"][1, 2], batches[1]["input_ids"][1, 0] = 41, 42  # there it is padding
    device.add(batches[1], "batch 2")
    a = concatenated(hand, batches[:2])["embedding.out"]
    close(device.sums()["embedding.out"]["abs"], np.abs(a).sum(0))


@pytest.mark.skipif(not CUDA, reason="NO GPU: sums on a GPU and what it leaves to the CPU are not tested here")
def test_sums_on_a_gpu_are_those_of_the_cpu(parent_file):
    model = graph.load(parent_file("llama"))
    host, device = probes(model, inspect(model), "cuda")
    for probe in (host, device):
        for batch in measured.padded(model, 3):
            probe.add(batch, "batch")
    found = device.sums()
    for site, held in host.sums().items():
        np.testing.assert_allclose(found[site]["square"], held["square"], rtol=1e-4, err_msg=site)
    on_gpu = device.session.placement["CUDAExecutionProvider"]
    assert on_gpu["MatMul"] > 0
    assert "MatMul" not in device.session.placement.get("CPUExecutionProvider", {})
