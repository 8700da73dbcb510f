"""Slices that are cut when they are written are those that are cut at once; corrections of every kind."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import models
from graphclone import graph, pipeline, saving
from graphclone.anatomy import inspect
from graphclone.errors import BadModel, UnsupportedGraph
from graphclone.planner import Target
from graphclone.recipes import Recipe, held, is_lazy
from graphclone.surgery import slice_weights
from graphclone.surgery.operate import clone
from graphclone.surgery.slice_weights import Correction
from tests.surgery.parents import Parent, outputs


def lazy(model):
    return [t.name for t in model.graph.tensors().values() if isinstance(t, gs.Constant) and is_lazy(t)]


@pytest.mark.parametrize("method", ["none", "paper"])
def test_a_clone_of_recipes_is_written_as_one_of_numbers(found: Parent, rng, monkeypatch, tmp_path, method):
    keep = found.some(rng, 0.5, "residual", "ffn", "kv_head", "head")
    at_once = found.cut(keep, method, drop=[1])
    assert not lazy(at_once)
    monkeypatch.setattr(slice_weights, "LAZY_ABOVE", -1)
    later = found.cut(keep, method, drop=[1])
    assert len(lazy(later)) > 10
    for name, made in (("now", at_once), ("later", later)):
        saving.save(made, tmp_path / name)
    assert (tmp_path / "now").read_bytes() == (tmp_path / "later").read_bytes()
    assert lazy(later), "saving asked for all of a weight"
    assert later.sha256 == at_once.sha256
    for ours, theirs in zip(outputs(later), outputs(at_once), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_clone_of_a_clone_that_was_never_written(found: Parent, rng, monkeypatch):
    monkeypatch.setattr(slice_weights, "LAZY_ABOVE", -1)
    middle = found.cut(found.some(rng, 0.75, "ffn"), "paper")
    anatomy = inspect(middle)
    assert lazy(middle), "inspecting a clone computed its weights"
    between = Parent(found.name, found.exporter, middle, anatomy)
    keep = between.some(rng, 0.5, "ffn", "residual")
    last = clone(middle, anatomy, between.plan(keep, "paper"))
    written = Parent(found.name, found.exporter, replace(middle, graph=graph.from_proto(whole(middle)).graph), anatomy)
    expected = clone(written.model, anatomy, between.plan(keep, "paper"))
    assert lazy(last)
    assert {n: a.tobytes() for n, a in last.constants().items()} == {
        n: a.tobytes() for n, a in expected.constants().items()
    }


def whole(model):
    proto, arrays = graph.to_proto(model.copy())
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = arrays[tensor.name].tobytes()
    return proto


TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["number", "rows", "columns"])
def test_products_are_rounded_once(rng, dtype, kind):
    values = rng.standard_normal((40, 30)).astype(dtype)
    scale = {"number": 1.4142135623730951, "rows": rng.standard_normal((40, 1)), "columns": rng.standard_normal(30)}[
        kind
    ]
    wide = np.float64 if dtype is np.float64 else np.float32
    expected = (values.astype(wide) * np.asarray(scale, wide)).astype(dtype)
    made = Correction(scale).of(Recipe(values, {}), "w")
    assert b"".join(made.make(place).tobytes() for place in made.places(100)) == expected.tobytes()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_values_take_the_place_of_a_slice(rng, dtype):
    values = rng.standard_normal((3, 4))
    made = Correction(values=values).of(Recipe(np.zeros((6, 4), dtype), {0: np.array([0, 2, 4])}), "w")
    assert made.dtype == dtype
    assert np.array_equal(made, values.astype(dtype))
    with pytest.raises(ValueError, match=r"w: a correction makes \[3, 4\] of the slice \[6, 4\]"):
        Correction(values=values).of(Recipe(np.zeros((6, 4), dtype), {}), "w")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "overflow"])
@pytest.mark.parametrize("correction", ["number", "rows", "values"])
def test_what_is_not_finite_is_refused(dtype, bad, correction):
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.ones((4, 4), dtype)
    values[2, 1] = largest if bad == "overflow" else bad
    how = {
        "number": Correction(1.5),
        "rows": Correction(np.full((4, 1), 1.5)),
        "values": Correction(values=np.asarray(values, np.longdouble) * 2),
    }[correction]
    with pytest.raises(BadModel, match="w: holds NaN or infinite numbers, or overflows when"):
        loaded(how.of(Recipe(values, {}), "w"))


def loaded(values):
    return values.load() if isinstance(values, Recipe) else values


def test_a_plain_slice_is_passed_on_as_it_is(found: Parent):
    made = found.cut({}, "paper")
    parent = {t.name: held(t) for t in found.model.graph.tensors().values() if isinstance(t, gs.Constant)}
    kept = {t.name: held(t) for t in made.graph.tensors().values() if isinstance(t, gs.Constant)}
    assert kept
    assert all(kept[name] is parent[name] for name in kept)


def handing_out(name, array=None):
    """BERT with one output more: a weight of its own, or one that is given."""
    proto = onnx.load(models.cached("bert", exporter="torchscript"))
    if array is not None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    model = graph.from_proto(proto)
    anatomy = pipeline.inspect(model)
    plan = pipeline.plan(anatomy, None, Target(hidden="50%"), importance="uniform", method="none")
    return model, anatomy, plan


def test_a_weight_that_is_an_output_stays_as_it_is():
    model, anatomy, plan = handing_out("logit_scale", np.array(2.6, np.float32))
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    assert made.constants()["logit_scale"] == np.float32(2.6)
    assert [t.name for t in made.graph.outputs] == [t.name for t in model.graph.outputs]


def test_a_weight_that_is_an_output_is_not_cut():
    embedding = "model.embeddings.word_embeddings.weight"
    model, anatomy, plan = handing_out(embedding)
    with pytest.raises(UnsupportedGraph, match=f"output '{embedding}' is a weight, and the plan cuts it"):
        pipeline.clone(model, plan, anatomy=anatomy)
