"""Load and save: one form for every graph, weights left on disk, nothing written by halves, nothing read outside."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphclone import graph
from graphclone.errors import BadModel

make = onnx.helper.make_node
WEIGHT = np.arange(512, dtype=np.float32).reshape(16, 32)


def info(name, kind=onnx.TensorProto.FLOAT, shape=("batch", 32)):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def assemble(nodes, weights, **more):
    opsets = [onnx.helper.make_opsetid("", 17), *more.pop("opsets", ())]
    inputs = more.pop("inputs", [info("x", shape=("batch", 16))])
    outputs = more.pop("outputs", [info("y")])
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()]
    made = onnx.helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=9, **more)  # noqa: TID251  without graphclone


def tiny():
    return assemble([make("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT})


def written(folder, proto, name="model.onnx"):
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def external(folder, location="weights.bin", offset=0, data=None, length=None):
    """The tiny model with its weight in a file."""
    proto = tiny()
    (tensor,) = proto.graph.initializer
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": len(raw) if length is None else length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    if data is not False:
        (folder / "weights.bin").write_bytes(b"\0" * offset + raw if data is None else data)
    return written(folder, proto)


def refused(path, match):
    with pytest.raises(BadModel, match=match) as caught:
        graph.load(path)
    assert "\n" not in str(caught.value)
    assert str(path.name) in str(caught.value) or path.parent.name in str(caught.value)


def test_external_data_beside_the_model_is_mapped_not_read(tmp_path):
    model = graph.load(external(tmp_path, offset=4096))
    held = model.constants()["w"]
    assert np.array_equal(held, WEIGHT)
    base = held
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not held.flags.writeable
    assert model.external_files == (tmp_path / "weights.bin",)


def test_external_data_in_a_folder_below(tmp_path):
    (tmp_path / "data").mkdir()
    path = external(tmp_path, location="data/weights.bin")
    os.replace(tmp_path / "weights.bin", tmp_path / "data" / "weights.bin")
    assert np.array_equal(graph.load(path).constants()["w"], WEIGHT)


@pytest.mark.parametrize("location", ["../weights.bin", "data/../../weights.bin", "/etc/passwd", ""])
def test_external_data_may_not_leave_the_folder(tmp_path, location):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = external(inner, location=location)
    os.replace(inner / "weights.bin", tmp_path / "weights.bin")
    refused(path, "points outside the model's folder")


def test_an_absolute_path_is_refused_even_into_the_folder(tmp_path):
    refused(external(tmp_path, location=str(tmp_path / "weights.bin")), "points outside the model's folder")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_symbolic_link_is_not_followed(tmp_path, kind):
    inner, outside = tmp_path / "inner", tmp_path / "outside"
    inner.mkdir()
    outside.mkdir()
    path = external(inner, location="weights.bin" if kind == "file" else "link/weights.bin")
    os.replace(inner / "weights.bin", outside / "weights.bin")
    if kind == "file":
        (inner / "weights.bin").symlink_to(outside / "weights.bin")
    else:
        (inner / "link").symlink_to(outside, target_is_directory=True)
    refused(path, "symbolic link, which is not followed")


def test_external_data_that_is_missing(tmp_path):
    refused(external(tmp_path, data=False), "external data weights.bin is missing: put it beside the model")


@pytest.mark.parametrize(
    "spoiled", [{"data": b"\0" * 100}, {"data": b""}, {"length": 8}, {"offset": 1 << 20, "data": WEIGHT.tobytes()}]
)
def test_external_data_of_the_wrong_size(tmp_path, spoiled):
    refused(external(tmp_path, **spoiled), "initializer w needs 2048 bytes at .*: truncated, or of another model")


def test_a_negative_offset_is_refused(tmp_path):
    path = external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    proto.graph.initializer[0].external_data[1].value = "-64"
    refused(written(tmp_path, proto), "needs 2048 bytes at -64")


@pytest.mark.parametrize(("key", "value"), [("offset", "many"), ("length", "0x10")])
def test_an_offset_that_is_no_number_is_refused(tmp_path, key, value):
    path = external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == key).value = value
    refused(written(tmp_path, proto), f"w.*{value}")


@pytest.mark.parametrize("length", [None, 0])
def test_a_size_that_no_memory_holds_is_refused_before_anything_is_allocated(tmp_path, length):
    path = external(tmp_path, length=length)
    proto = onnx.load(str(path), load_external_data=False)
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]
    refused(written(tmp_path, proto), "initializer w")


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_truncated_file(tmp_path, keep):
    whole = tiny().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path, "not an ONNX file, or truncated|cannot be read|holds no ONNX graph|initializer w")


@pytest.mark.parametrize("content", [b"", b"not a model\n", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    refused(path, "not an ONNX file")


def test_a_path_to_nothing_and_to_a_folder(tmp_path):
    refused(tmp_path / "none.onnx", "no such file")
    with pytest.raises(BadModel, match="a folder, not an ONNX file"):
        graph.load(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": onnx.numpy_helper.from_array(WEIGHT)}, WEIGHT),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.0, 2.0]}, np.float32([1, 2])),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.int64([3, 4])),
    ],
)
def test_constant_nodes_become_initializers(attributes, expected):
    proto = assemble([make("Constant", [], ["c"], **attributes), make("Identity", ["c"], ["y"])], {})
    model = graph.from_proto(proto)
    assert [n.op for n in model.graph.nodes] == ["Identity"]
    held = model.constants()["c"]
    assert held.dtype == np.asarray(expected).dtype
    assert np.array_equal(held, expected)


def test_a_constant_node_that_is_an_output_stays_a_node():
    proto = assemble([make("Constant", [], ["y"], value_float=1.5)], {}, inputs=[])
    assert [n.op for n in graph.from_proto(proto).graph.nodes] == ["Constant"]


def test_functions_are_inlined():
    function = onnx.helper.make_function(
        "local", "Twice", ["a"], ["b"], [make("Add", ["a", "a"], ["b"])], [onnx.helper.make_opsetid("", 17)]
    )
    proto = assemble(
        [make("MatMul", ["x", "w"], ["m"]), make("Twice", ["m"], ["y"], domain="local")],
        {"w": WEIGHT},
        opsets=[onnx.helper.make_opsetid("local", 1)],
        functions=[function],
    )
    assert [n.op for n in graph.from_proto(proto).graph.nodes] == ["MatMul", "Add"]


def test_initializers_that_are_also_inputs_are_no_inputs():
    proto = assemble([make("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, inputs=[info("x"), info("w", shape=(16, 32))])
    assert [t.name for t in graph.from_proto(proto).graph.inputs] == ["x"]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, np.int8, bool])
@pytest.mark.parametrize("size", [3, 4096])
def test_every_type_comes_back_as_it_was(tmp_path, dtype, size):
    values = np.arange(size).astype(dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = onnx.helper.make_tensor("w", kind, values.shape, values.tobytes(), raw=True)
    proto = assemble([make("Identity", ["w"], ["y"])], {}, outputs=[info("y", kind, [size])])
    proto.graph.initializer.append(tensor)
    graph.save(graph.load(written(tmp_path, proto)), tmp_path / "again.onnx")
    held = graph.load(tmp_path / "again.onnx").constants()["w"]
    assert held.dtype == dtype
    assert held.tobytes() == values.tobytes()


def test_saving_again_gives_the_same_bytes_and_what_the_file_said(tmp_path):
    proto = tiny()
    proto.metadata_props.add(key="b", value="2")
    proto.metadata_props.add(key="a", value="1")
    model = graph.load(written(tmp_path, proto))
    for name in ("one.onnx", "two.onnx"):
        graph.save(model, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    again = graph.load(tmp_path / "one.onnx")
    assert again.metadata == {"a": "1", "b": "2"}
    assert np.array_equal(again.constants()["w"], WEIGHT)
    onnx.checker.check_model(str(tmp_path / "one.onnx"), full_check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "one.onnx", "two.onnx"]


def test_large_weights_go_to_a_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "EXTERNAL_ABOVE", WEIGHT.nbytes - 1)
    graph.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    loaded = graph.load(tmp_path / "model.onnx")
    assert np.array_equal(loaded.constants()["w"], WEIGHT)
    assert loaded.external_files == (tmp_path / "model.onnx.data",)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)


def test_weights_at_the_threshold_stay_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "EXTERNAL_ABOVE", WEIGHT.nbytes)
    graph.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_can_be_saved_over_the_file_it_is_mapped_from(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "EXTERNAL_ABOVE", 0)
    path = tmp_path / "model.onnx"
    graph.save(graph.from_proto(tiny()), path)
    graph.save(graph.load(path), path)
    assert np.array_equal(graph.load(path).constants()["w"], WEIGHT)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, large, step):
    monkeypatch.setattr(graph, "EXTERNAL_ABOVE", 0 if large else 1 << 30)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(BadModel, match=r"cannot be written.*No space left"):
        graph.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    graph.save(graph.from_proto(tiny()), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(BadModel):
        graph.save(graph.from_proto(tiny()), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadModel, match=r"no such folder to write model\.onnx into"):
        graph.save(graph.from_proto(tiny()), tmp_path / "none" / "model.onnx")


def test_the_digest_follows_the_weights_wherever_they_lie(tmp_path):
    first = graph.load(external(tmp_path)).sha256
    assert graph.load(tmp_path / "model.onnx").sha256 == first
    (tmp_path / "weights.bin").write_bytes((WEIGHT + 1).tobytes())
    assert graph.load(tmp_path / "model.onnx").sha256 != first


def test_the_digest_of_a_graph_in_memory_follows_its_weights():
    other = tiny()
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT + 1, "w"))
    assert graph.from_proto(tiny()).sha256 == graph.from_proto(tiny()).sha256 != graph.from_proto(other).sha256
