"""norm-gain: exact where the dropped channels say nothing, the second moment of the parent's norm everywhere else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Norm, Site
from graphclone.errors import InvalidTarget
from graphclone.feeds import tiny_feeds
from graphclone.plan import EXCLUSIVE, Plan, passes_of
from graphclone.plan import PASSES as NAMED
from graphclone.statistics import run as measuring
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections.norm_gain import scalar
from graphclone.surgery.corrections.passes import PASSES
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import Parent, feeds, parent
from tests.surgery.silenced import answer, measured, without
from tests.surgery.tied import tied_parent
from tests.tolerances import TOLERANCE, assert_close, difference
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS

SILENT = (("llama", False), ("gpt2", True))  # recipe; whether a channel at the mean of the others says nothing
DROPPED = np.arange(3, 45, 4)


def narrowed(found, method, statistics=None):
    residual = found.anatomy.stacks[0].residual
    kept = np.setdiff1d(np.arange(found.anatomy.groups[residual].size), DROPPED)
    plan = found.plan({residual: kept}, method)
    return plan, clone(found.model, found.anatomy, plan, statistics)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(("recipe", "centred"), SILENT)
def test_it_is_exact_where_the_dropped_channels_say_nothing(recipe, centred, exporter):
    found = without(parent(recipe, exporter), DROPPED, centred=centred)
    statistics = measured(found)
    plan, made = narrowed(found, "norm-gain", statistics)
    fed = feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted)
    _, sliced = narrowed(found, "none")
    assert difference(answer(sliced, fed), wanted) > 10 * TOLERANCE["float32"]
    report = verify(found.model, made, plan)
    assert report.passed, report.summary


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_the_factor_is_the_root_mean_square_of_the_kept_by_that_of_all(rng, kind):
    """Against float64, with an epsilon as large as the signal."""
    width, kept, epsilon = 24, np.array([0, 3, 4, 9, 17, 20]), 0.5
    x = rng.standard_normal((4096, width)) * rng.uniform(0.1, 3.0, width)
    x -= x.mean(1, keepdims=True) if kind == "LayerNorm" else 0.0
    u = x / np.sqrt((x**2).mean(1, keepdims=True) + epsilon)
    sums = {"square": (u**2).sum(0), "sum": u.sum(0), "count": np.int64(len(x))}
    norm = Norm(kind, "pre", "g", None, width, "x", "y", "s", epsilon)
    site = Site("s", "norm", "x", -1, width, 0, {})
    found = scalar(Statistics("", {"s": sums}, 1, ()), norm, site, kept)
    mean = u[:, kept].mean() if kind == "LayerNorm" else 0.0
    wanted = np.sqrt(((u[:, kept] ** 2).mean(1) + epsilon / ((x**2).mean(1) + epsilon)).mean() - mean**2)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_gain_of_one_plus_a_weight_has_the_weight_changed():
    """As Gemma's norms are written: the sum has to come out as a plain gain would."""
    found = parent("llama", "dynamo")
    model = found.model.copy()
    model.path = None
    norms = [n for b in found.anatomy.stacks[0].blocks for n in b.norms] + list(found.anatomy.stacks[0].norms)
    nodes = {t.name: n for n in model.graph.nodes for t in n.outputs}
    for norm in norms:
        node, place = nodes[norm.gain_at[0]], norm.gain_at[1]
        weight = gs.Constant(f"{norm.gain}.minus_one", node.inputs[place].values - np.float32(1))
        total = gs.Variable(f"{norm.gain}.total", np.float32)
        one = gs.Constant(f"{norm.gain}.one", np.array(1, np.float32))
        model.graph.nodes.insert(0, gs.Node("Add", total.name, {}, [weight, one], [total], domain=""))
        node.inputs[place] = total
    model.__dict__.pop("sha256", None)
    other = replace(found, model=model, anatomy=inspect(model))
    fed = feeds(found.model, 2, 9)
    plain = answer(narrowed(found, "norm-gain", measured(found))[1], fed)
    summed = answer(narrowed(other, "norm-gain", measured(other))[1], fed)
    assert_close(summed, plain)
    uncorrected = answer(narrowed(other, "none")[1], fed)
    assert difference(uncorrected, plain) > 10 * TOLERANCE["float32"]


def test_a_scaled_embedding_is_exact_too():
    """Gemma: the embedding times sqrt(d), tied to the head; gains 1 + w; norms on what the branches write."""
    row, column = ROWS["gemma2"], COLUMNS["torchscript"]
    folder = models.cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(row, column, folder):
        build.build(row, column, folder)
    model = graph.load(build.file_of(row, column, folder))
    found = without(Parent("gemma2", "torchscript", model, inspect(model)), DROPPED, centred=False)
    fed = tiny_feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    plan, made = narrowed(found, "norm-gain", measured(found))
    assert_close(answer(made, fed), wanted)
    assert difference(answer(narrowed(found, "none")[1], fed), wanted) > 10 * TOLERANCE["float32"]
    assert verify(found.model, made, plan).passed


def test_a_tied_embedding_stays_one_tensor():
    model = tied_parent()
    anatomy = inspect(model)
    found = replace(parent("gpt2", "dynamo"), model=model, anatomy=anatomy)
    plan = Plan(anatomy.fingerprint, {"residual": (0, 2, 3, 5, 7)}, method="norm-gain")
    made = clone(model, anatomy, plan, measured(found))
    assert np.array_equal(made.constants()["embed"], model.constants()["embed"][:, [0, 2, 3, 5, 7]])
    assert sorted(n.op for n in made.graph.tensors()["embed"].outputs) == ["Gather", "Transpose"]


def test_full_width_changes_nothing():
    found = parent("llama", "dynamo")
    residual = found.anatomy.stacks[0].residual
    plan = found.plan({residual: range(found.anatomy.groups[residual].size)}, "norm-gain")
    made = clone(found.model, found.anatomy, plan, measured(found, 1))
    for name, array in found.model.constants().items():
        assert made.constants()[name].tobytes() == array.tobytes()


def test_it_needs_statistics_of_this_parent():
    found = parent("llama", "dynamo")
    with pytest.raises(InvalidTarget, match="norm-gain corrects by what was measured"):
        narrowed(found, "norm-gain")
    other = measured(parent("llama", "torchscript"), 1)
    with pytest.raises(InvalidTarget, match="another parent"):
        narrowed(found, "norm-gain", other)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("paper+norm-gain", "exclude each other"),
        ("none+least-squares", "exclude each other"),
        ("norm-gain+norm-gain", "is not one of"),
        ("gain", "is not one of best, none, pca, paper, norm-gain"),
        *(("+".join(sorted(pair)), "exclude each other") for pair in EXCLUSIVE),
    ],
)
def test_methods_that_cannot_go_together_are_refused(method, said):
    with pytest.raises(InvalidTarget, match=said):
        Plan("", {}, method=method)
    assert passes_of("least-squares+norm-gain") == ("norm-gain", "least-squares"), "in the order they are made in"
    assert tuple(PASSES) == NAMED, "every pass has its row"


def test_the_examiner_finds_a_gain_that_was_not_corrected_as_claimed():
    found = parent("llama", "dynamo")
    plan, made = narrowed(found, "norm-gain", measured(found))
    claims = json.loads(made.metadata["graphclone.slices"])
    gain = found.anatomy.stacks[0].norms[0].gain
    assert claims[gain]["scale"] != 1.0
    (tensor,) = [t for t in made.graph.tensors().values() if t.name == gain]
    tensor.values = tensor.values * np.float32(1.01)
    assert not verify(found.model, made, plan).passed


def test_layer_norms_are_fitted_channel_by_channel_over_the_neurons_kept():
    """gain' = a gain, bias' = bias + b gain with a, b by least squares: against NumPy in float64 on the activations."""
    found = parent("gpt2", "dynamo")
    residual = found.anatomy.stacks[0].residual
    kept = np.setdiff1d(np.arange(found.anatomy.groups[residual].size), DROPPED)
    plan = found.plan({residual: kept}, "norm-gain")
    data = [tiny_feeds(found.model, 8, 32, seed=np.random.SeedSequence([7, k])) for k in range(4)]
    affine = measuring.measure_kept(found.model, found.anatomy, plan, data, threads=1)
    made = clone(found.model, found.anatomy, plan, measured(found, 4), affine)
    assert verify(found.model, made, plan).passed
    norm = found.anatomy.stacks[0].blocks[1].norms[0]
    shown = found.model.copy()
    shown.graph.outputs = [shown.graph.tensors()[norm.input]]
    shown.graph.outputs[0].dtype = np.float32
    x = np.concatenate([answer(shown, fed).reshape(-1, 48) for fed in data]).astype(np.float64)

    def normalised(values):
        centred = values - values.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + norm.epsilon)

    n, k = normalised(x)[:, kept], normalised(x[:, kept])
    a = ((n - n.mean(0)) * (k - k.mean(0))).mean(0) / k.var(0)
    b = n.mean(0) - a * k.mean(0)
    before, after = found.model.constants(), made.constants()
    gain, bias = before[norm.gain][kept].astype(np.float64), before[norm.bias][kept].astype(np.float64)
    assert_close(after[norm.gain], (a * gain).astype(np.float32))
    assert_close(after[norm.bias], (bias + b * gain).astype(np.float32))
    assert np.square(n - (a * k + b)).sum() < np.square(n - scalar_of(found, norm, kept) * k).sum()


def scalar_of(found, norm, kept):
    site = next(s for s in found.anatomy.sites if s.name == norm.site)
    return scalar(measured(found, 4), norm, site, kept)
