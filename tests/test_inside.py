"""Weights that stay inside their file: what is mapped is what onnx reads, whatever the file."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from graphclone import graph, inside

LONG = 40_000  # elements; of one byte each they are parsed, of two or more they are left in the file
TYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8, np.bool_)


def model(extra=()):
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": (rng.standard_normal((8, LONG // 8)) * 50).astype(t) for i, t in enumerate(TYPES)}
    arrays |= {"small": np.arange(3.0), "square": rng.standard_normal((300, 301)).astype(np.float32)}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node("Hold", ["x", *arrays], ["y"], domain="tests")
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    made = helper.make_graph([node], "g", io[:1], io[1:], [*tensors, *extra])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("tests", 1)]
    return helper.make_model(made, opset_imports=opsets, producer_name="a maker"), arrays  # noqa: TID251


@pytest.fixture
def file(tmp_path):
    proto, _ = model()
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def refilled(proto, arrays):
    """The model with its mapped weights inside again."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        if tensor.name in arrays:
            tensor.raw_data = np.ascontiguousarray(arrays[tensor.name]).tobytes()
    return whole.SerializeToString(deterministic=True)


def test_what_is_mapped_is_what_onnx_reads(file):
    proto, mapped = inside.read(file, above=0)
    _, arrays = model()
    assert set(mapped) == {name for name, array in arrays.items() if array.nbytes >= inside.LARGE}
    assert refilled(proto, mapped) == onnx.load(file).SerializeToString(deterministic=True)
    for name, array in mapped.items():
        assert array.dtype == arrays[name].dtype
        assert array.tobytes() == arrays[name].tobytes()
        assert not array.flags.writeable


def test_a_small_file_is_read_whole(file):
    assert file.stat().st_size < inside.MAPPED_ABOVE
    assert inside.read(file)[1] == {}


def test_tensors_that_are_not_plain_bytes_are_parsed(tmp_path):
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, [LONG], np.arange(LONG, dtype=np.float32))
    four_bits = helper.make_tensor("four_bits", TensorProto.INT4, [4 * LONG], np.zeros(4 * LONG, np.int8))
    short = numpy_helper.from_array(np.zeros(LONG, np.float32), "short")
    short.dims[0] = LONG + 1
    proto, _ = model([numbers, four_bits, short])
    onnx.save(proto, tmp_path / "m.onnx")
    read, mapped = inside.read(tmp_path / "m.onnx", above=0)
    assert mapped
    assert not mapped.keys() & {"numbers", "four_bits", "short"}
    assert refilled(read, mapped) == proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["w0", "small"])
def test_initializers_of_one_name_are_left_to_onnx(tmp_path, name):
    proto, arrays = model()
    proto.graph.initializer.append(numpy_helper.from_array(arrays["w0"], name))
    onnx.save(proto, tmp_path / "m.onnx")
    assert inside.read(tmp_path / "m.onnx", above=0)[1] == {}


def test_any_other_file_gives_what_onnx_gives(file):
    """Cut off anywhere, bytes changed anywhere: never another model than onnx reads, never another error."""
    data = file.read_bytes()
    rng = np.random.default_rng(1)
    heads = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\x10\x01"][:40]  # where tensors say their type
    agreed = 0
    for turn in range(160):
        changed = bytearray(data)
        if turn % 4 == 0:
            changed = changed[: int(rng.integers(len(data)))]
        else:
            at = int(rng.integers(600)) if turn % 2 else heads[turn % len(heads)] + int(rng.integers(-8, 12))
            changed[max(at, 0)] = int(rng.integers(256))
        file.write_bytes(changed)
        try:
            wanted = onnx.load(file, load_external_data=False).SerializeToString(deterministic=True)
        except (DecodeError, ValueError):
            with pytest.raises((DecodeError, ValueError)):
                inside.read(file, above=0)
            continue
        assert refilled(*inside.read(file, above=0)) == wanted
        agreed += 1
    assert agreed > 20


def test_a_runtime_gets_weights_where_processors_read_them(file):
    proto, mapped = inside.read(file, above=0)
    assert not all(array.flags.aligned for array in mapped.values())
    read = graph.from_proto(proto, file, mapped)
    held, arrays = read.constants(), model()[1]
    assert {name: array.tobytes() for name, array in held.items()} == {n: a.tobytes() for n, a in arrays.items()}
    _, handed = graph.to_proto(read)
    assert all(array.flags.aligned for array in handed.values())
