"""Save: what is written comes back, whole, in however many files; nothing is written by halves."""

from __future__ import annotations

import os
import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from graphclone import graph, inside, saving
from graphclone.errors import BadModel, InvalidTarget
from graphclone.recipes import Recipe
from tests.tiny_models import WEIGHT, assemble, external, info, make, tiny, written


@pytest.fixture
def beside(monkeypatch):
    """Weights of any size go to a file beside the model."""
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", 0)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, np.int8, bool])
@pytest.mark.parametrize("size", [0, 3, 4096])
@pytest.mark.parametrize("above", [0, 1 << 30])
def test_every_type_comes_back_as_it_was(tmp_path, monkeypatch, dtype, size, above):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", above)
    values = np.arange(size).astype(dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = onnx.helper.make_tensor("w", kind, values.shape, values.tobytes(), raw=True)
    proto = assemble([make("Identity", ["w"], ["y"])], {}, outputs=[info("y", kind, [size])])
    proto.graph.initializer.append(tensor)
    saving.save(graph.load(written(tmp_path, proto)), tmp_path / "again.onnx")
    held = graph.load(tmp_path / "again.onnx").constants()["w"]
    assert held.dtype == dtype
    assert held.tobytes() == values.tobytes()
    onnx.checker.check_model(str(tmp_path / "again.onnx"), full_check=True)


def several(rng):
    """Four weights of other sizes, one of them small, one no run of bytes in memory."""
    shapes = {"a": (16, 40), "b": (40, 3), "c": (3, 700), "d": (700, 32)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    flow = ["x", *(f"v{name}" for name in "abc"), "y"]
    nodes = [make("MatMul", [flow[k], name], [flow[k + 1]]) for k, name in enumerate("abcd")]
    model = graph.from_proto(assemble(nodes, weights))
    model.graph.tensors()["c"].values = np.asfortranarray(weights["c"])
    return model, weights


@pytest.mark.parametrize(("shard", "files"), [(None, 1), (1 << 20, 1), (20_000, 2), (1, 3)])
def test_several_weights_in_one_file_or_more(tmp_path, rng, beside, shard, files):
    model, weights = several(rng)
    saving.save(model, tmp_path / "model.onnx", shard)
    loaded = graph.load(tmp_path / "model.onnx")
    assert len(loaded.external_files) == files
    assert len(names(tmp_path)) == 1 + files
    assert all(np.array_equal(loaded.constants()[name], values) for name, values in weights.items())
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    fed = {"x": rng.standard_normal((2, 16)).astype(np.float32)}
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, fed)
    expected = fed["x"] @ weights["a"] @ weights["b"] @ weights["c"] @ weights["d"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_weights_streamed_into_the_protobuf_are_what_protobuf_reads(tmp_path, rng):
    model, weights = several(rng)
    model.metadata["said"] = "here"
    saving.save(model, tmp_path / "model.onnx")
    assert names(tmp_path) == ["model.onnx"]
    proto = onnx.load(str(tmp_path / "model.onnx"))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert held.keys() == weights.keys()
    assert all(np.array_equal(held[name], weights[name]) for name in weights)
    assert [(p.key, p.value) for p in proto.metadata_props] == [("said", "here")]
    assert [n.op_type for n in proto.graph.node] == ["MatMul"] * 4
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 14, (1 << 31) - 1, 1 << 40])
def test_lengths_are_written_as_protobuf_writes_them(number):
    from google.protobuf.internal.encoder import _VarintBytes

    assert inside.varint(number) == _VarintBytes(number)


def test_saving_again_gives_the_same_bytes_and_what_the_file_said(tmp_path):
    proto = tiny()
    proto.metadata_props.add(key="b", value="2")
    proto.metadata_props.add(key="a", value="1")
    model = graph.load(written(tmp_path, proto))
    for name in ("one.onnx", "two.onnx"):
        saving.save(model, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    again = graph.load(tmp_path / "one.onnx")
    assert again.metadata == {"a": "1", "b": "2"}
    assert np.array_equal(again.constants()["w"], WEIGHT)
    onnx.checker.check_model(str(tmp_path / "one.onnx"), full_check=True)
    assert names(tmp_path) == ["model.onnx", "one.onnx", "two.onnx"]


def test_large_weights_go_to_a_file_beside_named_after_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", WEIGHT.nbytes - 1)
    saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    loaded = graph.load(tmp_path / "model.onnx")
    (data,) = loaded.external_files
    assert names(tmp_path) == ["model.onnx", data.name]
    assert np.array_equal(loaded.constants()["w"], WEIGHT)
    saving.save(graph.from_proto(tiny(WEIGHT + 1)), tmp_path / "other.onnx")
    (other,) = graph.load(tmp_path / "other.onnx").external_files
    assert other.name.removeprefix("other") != data.name.removeprefix("model")


def test_weights_at_the_threshold_stay_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", WEIGHT.nbytes)
    saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert names(tmp_path) == ["model.onnx"]


def test_a_model_can_be_saved_over_the_file_it_is_mapped_from(tmp_path, beside):
    path = tmp_path / "model.onnx"
    saving.save(graph.from_proto(tiny()), path)
    before = names(tmp_path)
    saving.save(graph.load(path), path)
    assert np.array_equal(graph.load(path).constants()["w"], WEIGHT)
    assert names(tmp_path) == before


def test_new_weights_take_the_place_of_old_ones(tmp_path, beside):
    path = tmp_path / "model.onnx"
    for step in range(3):
        saving.save(graph.from_proto(tiny(WEIGHT + step)), path)
        assert np.array_equal(graph.load(path).constants()["w"], WEIGHT + step)
        assert len(names(tmp_path)) == 2


def test_old_weights_that_a_copy_of_the_model_reads_stay(tmp_path, beside):
    path, copy = tmp_path / "model.onnx", tmp_path / "copy.onnx"
    saving.save(graph.from_proto(tiny()), path)
    copy.write_bytes(path.read_bytes())
    saving.save(graph.from_proto(tiny(WEIGHT + 1)), path)
    assert np.array_equal(graph.load(copy).constants()["w"], WEIGHT)
    assert np.array_equal(graph.load(path).constants()["w"], WEIGHT + 1)
    assert len(names(tmp_path)) == 4


def test_files_that_only_look_alike_stay(tmp_path, beside):
    others = ["model.onnx.data", "other.onnx.01234567.data", "model.onnx.notes.data", "model.onnx.01234567.data.old"]
    for name in others:
        (tmp_path / name).write_text("mine")
    saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert set(others) < set(names(tmp_path))


def test_an_output_in_the_place_of_its_own_weights_is_refused(tmp_path):
    model = graph.load(external(tmp_path))
    with pytest.raises(InvalidTarget, match=r"weights\.bin: holds the weights of the model to be written"):
        saving.save(model, tmp_path / "weights.bin")
    assert np.array_equal(graph.load(tmp_path / "model.onnx").constants()["w"], WEIGHT)


@pytest.mark.parametrize("above", [0, 1 << 30])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, above, step):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", above)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(BadModel, match=r"cannot be written.*No space left"):
        saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadModel, match=r"no such folder to write model\.onnx into"):
        saving.save(graph.from_proto(tiny()), tmp_path / "none" / "model.onnx")


def test_an_error_while_a_weight_is_made_leaves_nothing_behind(tmp_path, beside):
    def refuse(*_):
        raise BadModel("w: not finite")

    model = graph.from_proto(tiny())
    model.graph.tensors()["w"].values = Recipe(WEIGHT, {}, refuse)
    with pytest.raises(BadModel, match="w: not finite"):
        saving.save(model, tmp_path / "model.onnx")
    assert names(tmp_path) == []


@pytest.mark.parametrize("above", [0, 1 << 30])
def test_a_recipe_is_saved_without_ever_being_whole(tmp_path, monkeypatch, above):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", above)
    size = 64 << 20
    model = graph.from_proto(tiny())
    source = np.broadcast_to(np.float32(1.5), (16, size // 64))
    model.graph.tensors()["w"].values = Recipe(source, {1: np.arange(size // 64)[::-1]}, lambda piece, _: piece * 2)
    tracemalloc.start()
    saving.save(model, tmp_path / "model.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = graph.load(tmp_path / "model.onnx").constants()["w"]
    assert held.nbytes == size
    assert (held == 3).all()
    assert peak < size / 2
