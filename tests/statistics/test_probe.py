"""What the probe sums equals a float64 reference, with the padding left out."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

import models
from graphclone import feeds, graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Site
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.statistics import run
from graphclone.statistics.assembly import reduce_places
from graphclone.statistics.masks import Layout
from graphclone.statistics.places import first_pass
from graphclone.statistics.probe import Probe
from graphclone.statistics.reductions import Place
from graphclone.statistics.store import Statistics
from tests.tolerances import STATISTICS
from tools import measured

TINIEST = np.finfo(np.float64).tiny
CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def assert_equal_sums(found, expected, relative=STATISTICS):
    """expected: site -> float64 activations [positions, width]."""
    assert {site for site in found.sites if site != "blocks.0"} == set(expected)
    for site, values in expected.items():
        held = found.sites[site]
        assert int(held["count"]) == len(values)
        size = np.abs(values).sum(0)
        np.testing.assert_allclose(held["abs"], size, rtol=relative, atol=0)
        np.testing.assert_allclose(held["square"], (values**2).sum(0), rtol=relative, atol=0)
        np.testing.assert_array_less(np.abs(held["sum"] - values.sum(0)), relative * size + TINIEST)  # terms may cancel


@pytest.mark.parametrize("on_device", [False, True])
def test_bfloat16_is_measured_where_there_are_no_kernels_for_it(hands, batches, on_device):
    """Its weights are float32 numbers, and the CPU computes in float32."""
    hand = hands(dtype=ml_dtypes.bfloat16)
    model = hand.model()
    anatomy = hand.anatomy(model)
    probe = Probe.at(model, first_pass(anatomy), provider="cpu", on_device=on_device)
    for batch in batches:
        probe.add(batch, "batch")
    each = [hand.activations(batch) for batch in batches]
    found = Statistics(model.sha256, probe.sums(), 3, ())
    assert_equal_sums(found, {site: np.concatenate([a[site] for a in each]) for site in each[0]})


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("flat", [False, True])
def test_sums_equal_a_float64_reference(hands, batches, opset, flat):
    hand = hands(opset=opset, flat=flat)
    model = hand.model()
    found = run.measure(model, hand.anatomy(model), batches, provider="cpu")
    each = [hand.activations(batch) for batch in batches]
    assert_equal_sums(found, {site: np.concatenate([a[site] for a in each]) for site in each[0]})
    assert (found.batches, found.providers) == (3, ("CPUExecutionProvider",))
    assert found.count == sum(int(batch["attention_mask"].sum()) for batch in batches)


def test_the_comparison_sees_a_padded_position_that_counts(hand, batches):
    model = hand.model()
    unmasked = [{**batch, "attention_mask": np.ones_like(batch["attention_mask"])} for batch in batches]
    found = run.measure(model, hand.anatomy(model), unmasked, provider="cpu")
    each = [hand.activations(batch) for batch in batches]
    with pytest.raises(AssertionError):
        assert_equal_sums(found, {site: np.concatenate([a[site] for a in each]) for site in each[0]})


def test_half_precision_is_summed_in_float32(hands):
    """4096 positions of about 1: a float16 sum would stop growing at 2048."""
    hand = hands(dtype=np.float16)
    model = hand.model()
    rng = np.random.default_rng(0)
    batch = {"input_ids": rng.integers(0, 300, (8, 512)), "attention_mask": np.ones((8, 512), np.int64)}
    found = run.measure(model, hand.anatomy(model), [batch], provider="cpu")
    embedded = hand.activations(batch)["embedding.out"]
    held = found.sites["embedding.out"]
    np.testing.assert_allclose(held["abs"], np.abs(embedded).sum(0), rtol=STATISTICS)
    np.testing.assert_allclose(held["square"], (embedded**2).sum(0), rtol=STATISTICS)


def test_exports_sum_to_their_dumped_activations(seeded_parent):
    model = graph.load(seeded_parent)
    anatomy = inspect(model)
    assert max(measured.first(model, anatomy, measured.padded(model)).values()) < STATISTICS


@pytest.mark.real
def test_a_trained_parent_sums_to_its_dumped_activations():
    model = graph.load(models.cached("minilm"))
    anatomy = inspect(model)
    batch = feeds.tiny_feeds(model, 2, 33)
    batch["attention_mask"][1, 20:] = 0
    assert max(measured.first(model, anatomy, [batch]).values()) < STATISTICS


def layout_model() -> tuple[Model, Anatomy]:
    """Heads as an inner axis of the tokens [batch, length, 5, 4], and channels before pixels [batch, 4, 3, 3]."""
    x = gs.Variable("features", np.float32, ["batch", "length", 5, 4])
    mask = gs.Variable("attention_mask", np.int64, ["batch", "length"])
    by_head, image = gs.Variable("by_head", np.float32), gs.Variable("image", np.float32)
    flat, total = gs.Variable("flat", np.float32), gs.Variable("total", np.float32, ["batch", 4, 3, 3])
    seen = gs.Variable("seen", np.float32, ["batch", "length"])
    nodes = [
        gs.Node("Neg", "neg", {}, [x], [by_head]),
        gs.Node("ReduceMax", "pool", {"keepdims": 0, "axes": [1, 2]}, [by_head], [flat]),
        gs.Node("Reshape", "pixel", {}, [flat, gs.Constant("one", np.array([-1, 4, 1, 1]))], [image]),
        gs.Node("Expand", "spread", {}, [image, gs.Constant("nine", np.array([1, 1, 3, 3]))], [total]),
        gs.Node("Cast", "seeing", {"to": 1}, [mask], [seen]),
    ]
    model = Model(gs.Graph(nodes, [x, mask], [total, seen], opset=13, ir_version=8))
    sites = (
        Site("heads", "inner", "by_head", -1, 4, 0, {"v_dim": np.arange(4)}),
        Site("channels", "writer", "total", -3, 4, 0, {"residual": np.arange(4)}),
    )
    return model, Anatomy(model.sha256, (), {}, sites, (), {})


def test_inner_axes_count_and_values_of_another_layout_are_not_masked():
    model, anatomy = layout_model()
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    features = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    found = run.measure(model, anatomy, [{"features": features, "attention_mask": mask}], provider="cpu")
    heads = -features.astype(np.float64)
    channels = np.repeat(heads.max(axis=(1, 2)), 9, axis=0)
    assert_equal_sums(found, {"heads": heads[mask.astype(bool)].reshape(-1, 4), "channels": channels})


def broken_at(hand, when: str) -> Model:
    """The hand-made parent whose embedding is divided by the mask, or by zero for one token."""
    model = hand.model()
    tensors = model.graph.tensors()
    by = gs.Variable("by", np.float32)
    if when == "padding":
        column = gs.Variable("column", np.float32)
        nodes = [
            gs.Node("Reshape", "columns", {}, [tensors["seen"], gs.Constant("c", np.array([0, 0, 1]))], [column]),
            gs.Node("Identity", "divisor", {}, [column], [by]),
        ]
    else:
        rows = np.ones((300, 6), np.float32)
        rows[42] = 0
        nodes = [gs.Node("Gather", "divisor", {}, [gs.Constant("rows", rows), tensors["input_ids"]], [by])]
    raw = gs.Variable("raw", np.float32)
    gather = next(n for n in model.graph.nodes if n.name == "embedding")
    cast = next(n for n in model.graph.nodes if n.name == "seeing")
    gather.outputs = [raw]
    divide = gs.Node("Div", "divide", {}, [raw, by], [tensors["embedded"]])
    rest = [n for n in model.graph.nodes if n not in (gather, cast)]
    model.graph.nodes = [gather, cast, *nodes, divide, *rest]
    return model


def test_padding_that_is_not_finite_does_not_count(hand, batches):
    model = broken_at(hand, "padding")
    found = run.measure(model, hand.anatomy(model), batches, provider="cpu")
    each = [hand.activations(batch) for batch in batches]
    assert_equal_sums(found, {site: np.concatenate([a[site] for a in each]) for site in each[0]})


def test_activations_that_are_not_finite_are_named_by_site_and_batch(hand, batches):
    model = broken_at(hand, "token 42")
    for batch in batches:
        batch["input_ids"][batch["input_ids"] == 42] = 41
    batches[1]["input_ids"][0, 0] = 42
    with pytest.raises(BadData, match=r"batch 2: the activations at embedding\.out are not finite"):
        run.measure(model, hand.anatomy(model), batches, provider="cpu")


def test_shards_add_up_to_one_run(hand, batches):
    model = hand.model()
    anatomy = hand.anatomy(model)
    whole = run.measure(model, anatomy, batches, provider="cpu")
    parts = [run.measure(model, anatomy, piece, provider="cpu") for piece in (batches[:1], batches[1:])]
    merged = parts[0].merge(parts[1])
    assert (merged.batches, merged.count) == (whole.batches, whole.count)
    for site, held in whole.sites.items():
        assert set(merged.sites[site]) == set(held)
        for name, array in held.items():
            allowed = 0 if name == "count" else 1e-12
            np.testing.assert_allclose(
                merged.sites[site][name], array, rtol=allowed, atol=allowed * np.abs(array).max()
            )
    with pytest.raises(BadData, match="count twice"):
        merged.merge(parts[0])


def test_what_no_statistic_depends_on_does_not_run(hand):
    model = hand.model()
    before = [node.name for node in model.graph.nodes]
    anatomy = hand.anatomy(model)
    places = [Place(s.name, s.kind, (s.value,), s.axis, s.width, layouts=(Layout(3),)) for s in anatomy.sites]
    made = reduce_places(model, places).model
    made.graph.cleanup()
    left = {node.name for node in made.graph.nodes}
    assert "down_matmul" in left
    assert not {"head_matmul", "residual"} & left
    assert [node.name for node in model.graph.nodes] == before
    assert [o.name for o in model.graph.outputs] == ["logits", "seen"]


def test_progress_says_how_far_it_is(hand, batches):
    model = hand.model()
    said = []
    run.measure(model, hand.anatomy(model), batches, progress=lambda done, total: said.append((done, total)))
    run.measure(model, hand.anatomy(model), (b for b in batches[:1]), progress=lambda d, t: said.append((d, t)))
    assert said == [(1, 3), (2, 3), (3, 3), (1, None)]


def test_what_cannot_be_measured_is_refused(hand, batches):
    model = hand.model()
    anatomy = hand.anatomy(model)
    with pytest.raises(BadData, match="no batch"):
        run.measure(model, anatomy, [])
    with pytest.raises(BadData, match=r"batch 1: the graph wants input_ids int64\[batch, length\], .* int64\[3\]"):
        run.measure(model, anatomy, [{"input_ids": np.zeros(3, np.int64)}])
    with pytest.raises(InvalidTarget, match="provider 'tpu' is not one of auto, cpu, cuda"):
        run.measure(model, anatomy, batches, provider="tpu")
    other = Anatomy("0" * 64, anatomy.stacks, anatomy.groups, anatomy.sites, (), anatomy.axes)
    with pytest.raises(InvalidTarget, match="another model"):
        run.measure(model, other, batches)
    absent = Site("nowhere", "writer", "no_such_tensor", -1, 6, None, {})
    with pytest.raises(UnsupportedGraph, match="no_such_tensor"):
        run.measure(model, Anatomy(model.sha256, (), {}, (absent,), (), {}), batches)


@pytest.mark.skipif(CUDA, reason="this onnxruntime has CUDA: nothing to refuse")
def test_cuda_that_is_not_there_is_an_error_not_a_fallback(hand, batches):
    model = hand.model()
    with pytest.raises(InvalidTarget, match=r"no CUDA.*graphclone\[gpu\]"):
        run.measure(model, hand.anatomy(model), batches, provider="cuda")


@pytest.mark.skipif(not CUDA, reason="NO GPU: CUDA placement and precision are not tested here")
def test_cuda_sums_equal_the_reference(hand, batches):
    model = hand.model()
    found = run.measure(model, hand.anatomy(model), batches, provider="cuda")
    each = [hand.activations(batch) for batch in batches]
    assert_equal_sums(found, {site: np.concatenate([a[site] for a in each]) for site in each[0]}, relative=2e-6)
    assert found.providers == ("CUDAExecutionProvider",)
