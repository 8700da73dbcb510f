"""Numbers of 4 and of 2 bits lie several in a byte of a file, read and written; in memory each has a byte."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from graphclone import graph, saving
from graphclone.errors import BadModel
from tests.tiny_models import assemble, info, make, written

NARROW = {"INT4": (-8, 8), "UINT4": (0, 16), "INT2": (-2, 2), "UINT2": (0, 4), "FLOAT4E2M1": (-6, 7)}


def narrow(folder, name, count, cut=0):
    """So many numbers of a type narrower than a byte, in a file beside the model that lacks its last ``cut`` bytes."""
    kind = getattr(onnx.TensorProto, name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    values = np.random.default_rng(0).integers(*NARROW[name], (count,)).astype(np.float32).astype(dtype)
    proto = assemble([make("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT)], {"w": values}, inputs=[])
    (tensor,) = proto.graph.initializer
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": 3, "length": len(raw)}.items():
        tensor.external_data.add(key=key, value=str(value))
    (folder / "weights.bin").write_bytes(b"\xff" * 3 + raw[: len(raw) - cut])
    return written(folder, proto), values


@pytest.mark.parametrize("count", [64, 63, 61])
@pytest.mark.parametrize("name", NARROW)
def test_numbers_narrower_than_a_byte_lie_several_in_one(tmp_path, name, count):
    if not hasattr(onnx.TensorProto, name):
        pytest.skip(f"this onnx has no {name}")
    path, values = narrow(tmp_path, name, count)
    held = graph.load(path).constants()["w"]
    assert (held.dtype, held.shape) == (values.dtype, values.shape)
    assert np.array_equal(held.astype(np.float32), values.astype(np.float32))
    with pytest.raises(BadModel, match=r"initializer w needs .* bytes at 3, .*: truncated"):
        graph.load(narrow(tmp_path, name, count, cut=1)[0])


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("size", [3, 4096])
def test_numbers_narrower_than_a_byte_are_written_several_in_one(tmp_path, monkeypatch, kind, size):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", 0)
    values = (np.arange(size) % 7).astype(kind)
    proto = assemble(
        [make("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT)],
        {"w": values},
        inputs=[],
        outputs=[info("y", shape=[size])],
    )
    proto.opset_import[0].version, proto.ir_version = 21, 10
    saving.save(graph.load(written(tmp_path, proto)), tmp_path / "again.onnx")
    held = graph.load(tmp_path / "again.onnx").constants()["w"]
    assert (held.dtype, held.tobytes()) == (values.dtype, values.tobytes())
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "again.onnx")).run(None, {})
    assert np.array_equal(found, values.astype(np.float32))
