"""Load: one form for every graph, weights left on disk, nothing read outside the folder."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest

from graphclone import fingerprint, graph
from graphclone.errors import BadModel
from tests.tiny_models import WEIGHT, assemble, external, info, make, tiny, written


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


MANY = """
import resource, sys
from graphclone import graph
from graphclone.errors import BadModel
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    graph.load(sys.argv[1])
except BadModel as reason:
    print(reason)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files as Linux does")
def test_more_files_than_may_be_open_is_a_line(tmp_path):
    proto = tiny()
    for number in range(30):
        tensor = proto.graph.initializer.add(name=f"w{number}", dims=[4], data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"w{number}")
        (tmp_path / f"w{number}").write_bytes(bytes(16))
        proto.graph.node.append(make("Identity", [f"w{number}"], [f"y{number}"]))
    path = written(tmp_path, proto)
    assert len(graph.load(path).external_files) == 30
    done = subprocess.run([sys.executable, "-c", MANY, str(path)], capture_output=True, text=True, check=True)
    assert re.search(r"w\d+: external data of w\d+ cannot be read \(Too many open files\)\n$", done.stdout)


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
    with pytest.raises(BadModel, match="a folder without an ONNX file"):
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


def test_a_copy_keeps_what_the_file_said_and_shares_its_weights(tmp_path):
    proto = tiny()
    proto.producer_name, proto.producer_version = "somebody", "7"
    model = graph.load(written(tmp_path, proto))
    copy = model.copy()
    assert (copy.graph.producer_name, copy.graph.producer_version) == ("somebody", "7")
    assert copy.constants()["w"] is model.constants()["w"]
    assert (copy.path, copy.sha256) == (model.path, model.sha256)
    assert model.detached().path is None


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    path = written(tmp_path, tiny())
    assert graph.load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_follows_the_weights_wherever_they_lie(tmp_path):
    first = graph.load(external(tmp_path)).sha256
    assert graph.load(tmp_path / "model.onnx").sha256 == first
    (tmp_path / "weights.bin").write_bytes((WEIGHT + 1).tobytes())
    assert graph.load(tmp_path / "model.onnx").sha256 != first


@pytest.mark.parametrize("offset", [0, 3, 2047])
def test_the_digest_sees_every_byte_of_every_segment(tmp_path, monkeypatch, offset):
    monkeypatch.setattr(fingerprint, "SEGMENT", 512)
    first = graph.load(external(tmp_path))
    first.prepare_sha256()
    raw = bytearray((tmp_path / "weights.bin").read_bytes())
    raw[offset] ^= 1
    before = first.sha256
    (tmp_path / "weights.bin").write_bytes(raw)
    assert graph.load(tmp_path / "model.onnx").sha256 != before


def test_the_digest_of_a_large_model_is_noted_and_read_again_where_a_file_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "NOTED_ABOVE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = graph.load(external(tmp_path)).sha256
    (note,) = (tmp_path / "cache" / "graphclone" / "fingerprints").iterdir()
    assert note.read_text() == first
    note.write_text("f" * 64)
    assert graph.load(tmp_path / "model.onnx").sha256 == "f" * 64, "it was read again"
    for wrong in ("", "no digest", "g" * 64):
        note.write_text(wrong)
        assert graph.load(tmp_path / "model.onnx").sha256 == first
    note.write_text("f" * 64)
    raw = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert graph.load(tmp_path / "model.onnx").sha256 not in (first, "f" * 64)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
def test_a_file_that_changed_while_it_was_open_has_no_digest(tmp_path, name):
    model = graph.load(external(tmp_path))
    os.utime(tmp_path / name, ns=(1, 1))
    with pytest.raises(BadModel, match=f"{name}: was changed while it was open"):
        _ = model.sha256


def test_a_file_that_went_away_has_no_digest(tmp_path):
    model = graph.load(written(tmp_path, tiny()))
    model.path.unlink()
    with pytest.raises(BadModel, match=r"model\.onnx: cannot be read any more"):
        _ = model.sha256


def test_a_model_without_its_path_is_no_file(tmp_path):
    model = graph.load(external(tmp_path))
    before = model.copy().sha256
    model.path = None
    model.graph.tensors()["w"].values = WEIGHT + 1
    assert model.sha256 == graph.from_proto(tiny(WEIGHT + 1)).sha256 != before


def test_the_digest_of_a_graph_in_memory_follows_its_weights():
    first = graph.from_proto(tiny()).sha256
    assert graph.from_proto(tiny()).sha256 == first != graph.from_proto(tiny(WEIGHT + 1)).sha256


def test_where_the_digest_is_noted_the_beginning_of_the_weights_is_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "NOTED_ABOVE", 0)
    files = [tmp_path / "model.onnx", tmp_path / "weights"]
    for file in files:
        file.write_bytes(bytes(4000))
    asked = []
    monkeypatch.setattr(fingerprint, "WARMED", 2500)
    monkeypatch.setattr(fingerprint, "ASKED", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, length, __: asked.append((start, length)), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    first = fingerprint.Fingerprint(files[0], files[1:])
    first.prepare()
    digest = first.result()
    assert asked == []  # all of it was read
    again = fingerprint.Fingerprint(files[0], files[1:])
    again._warm()
    assert asked == [(0, 1000), (1000, 1000), (2000, 1000)]
    again.prepare()
    assert again.result() == digest
    assert not again._workers
