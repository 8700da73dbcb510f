"""Weights that become floats on the way in: what ONNX Runtime computes with the file, it computes with the floats."""

from __future__ import annotations

import errno
import os
import tempfile
import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from graphclone import dequantise
from graphclone.errors import BadModel, UnsupportedGraph
from graphclone.graph import from_proto
from graphclone.pytorch.module import to_torch
from graphclone.verification.sessions import open_session
from tests.tiny_models import assemble, info, make
from tests.tolerances import assert_close

MICROSOFT = onnx.helper.make_opsetid("com.microsoft", 1)
COLUMNS, ROWS = 8, 10
UNEVEN = ((64, 32), (80, 32), (576, 128), (40, 16), (33, 16))  # numbers along an axis, of a block


def in_runtime(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)[0]


def assert_read_as_it_runs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    model = from_proto(proto)
    assert not any("Quant" in node.op or "quant" in node.op for node in model.graph.nodes)
    (found,) = open_session(model, optimise=False).run(feeds).values()
    assert_close(found, in_runtime(proto, feeds))


def blocked(kind, size: int, block: int, along: int = 0, zero: bool = False, **attributes) -> onnx.ModelProto:
    """A product with a weight of integers and a scale (a zero point) for so many neighbours along an axis."""
    rng = np.random.default_rng(0)
    shape = [COLUMNS, COLUMNS]
    shape[along] = size
    settings = [-(-size // block) if k == along % 2 else n for k, n in enumerate(shape)]
    weights = {
        "w": rng.integers(-8, 8, shape).astype(kind),
        "s": (rng.random(settings) + 0.1).astype(np.float32),
        **({"z": rng.integers(-3, 3, settings).astype(kind)} if zero else {}),
    }
    nodes = [
        make("DequantizeLinear", list(weights), ["d"], **{"axis": along, "block_size": block} | attributes),
        make("MatMul", ["x", "d"], ["y"]),
    ]
    made = assemble(nodes, weights, inputs=[info("x", shape=(2, shape[0]))], outputs=[info("y", shape=(2, shape[1]))])
    made.opset_import[0].version, made.ir_version = 21, 10
    return made


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("kind", [np.int8, ml_dtypes.int4], ids=["int8", "int4"])
@pytest.mark.parametrize(("size", "block"), UNEVEN)
def test_a_block_is_as_long_as_the_node_says(size: int, block: int, kind, axis: int, zero: bool) -> None:
    proto = blocked(kind, size, block, axis, zero)
    x = np.random.default_rng(1).standard_normal((2, [size, COLUMNS][axis % 2])).astype(np.float32)
    assert_read_as_it_runs(proto, {"x": x})


@pytest.mark.parametrize("settings", [{"axis": 0, "block_size": 32}, {"axis": 1}], ids=["blocks", "columns"])
@pytest.mark.parametrize(("scale", "asked"), [(np.float16, np.float32), (np.float32, np.float16)])
def test_numbers_have_the_type_that_the_node_asks_for(scale, asked, settings) -> None:
    """output_dtype (onnx DequantizeLinear-23): half precision is no station on the way to float32. Scales of columns
    stay in the graph, and PyTorch reads them there."""
    rng = np.random.default_rng(0)
    scales = (rng.random((2, 8) if settings["axis"] == 0 else 8) + 0.1).astype(scale)
    weights = {"w": rng.integers(-8, 8, (64, 8)).astype(np.int8), "s": scales}
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(asked))
    read = make("DequantizeLinear", ["w", "s"], ["d"], output_dtype=number, **settings)
    tensors = {"inputs": [info("x", number, (64, 8))], "outputs": [info("y", number, (64, 8))]}
    made = assemble([read, make("Add", ["x", "d"], ["y"])], weights, **tensors)
    made.opset_import[0].version, made.ir_version = 23, 10
    x = np.zeros((64, 8), asked)
    wanted = in_runtime(made, {"x": x})
    (found,) = open_session(from_proto(made), optimise=False).run({"x": x}).values()
    learnt = to_torch(from_proto(made))(x=torch.from_numpy(x))["y"].detach().numpy()
    assert found.dtype == learnt.dtype == wanted.dtype == asked
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(learnt, wanted)


@pytest.mark.parametrize("attributes", [{"block_size": 0}, {"block_size": 16}, {"axis": 1}, {"axis": 5}])
def test_scales_that_do_not_fit_what_the_node_says_are_refused(attributes) -> None:
    proto = blocked(np.int8, 80, 32, **attributes)
    with pytest.raises(UnsupportedGraph, match="DequantizeLinear node"):
        from_proto(proto)


def table(size: int, block: int | None, zero: bool = False) -> onnx.ModelProto:
    """An embedding of four bits a number, two in a byte."""
    rng = np.random.default_rng(0)
    blocks = -(-size // (block or 128))
    weights = {
        "w": rng.integers(0, 256, (ROWS, size // 2)).astype(np.uint8),
        "s": (rng.random((ROWS, blocks)) + 0.1).astype(np.float32),
        **({"z": rng.integers(0, 256, (ROWS, -(-blocks // 2))).astype(np.uint8)} if zero else {}),
    }
    names = list(weights)
    attributes = {"bits": 4, "gather_axis": 0, "quantize_axis": 1} | ({"block_size": block} if block else {})
    node = make(
        "GatherBlockQuantized", [names[0], "input_ids", *names[1:]], ["y"], domain="com.microsoft", **attributes
    )
    ids = info("input_ids", onnx.TensorProto.INT64, ("batch", "length"))
    return assemble(
        [node], weights, inputs=[ids], outputs=[info("y", shape=("batch", "length", size))], opsets=[MICROSOFT]
    )


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("size", "block"), [(64, 32), (80, 32), (576, 128), (40, 16), (200, None)])
def test_a_row_of_an_embedding_is_read_in_the_nodes_blocks(size: int, block: int | None, zero: bool) -> None:
    assert_read_as_it_runs(table(size, block, zero), {"input_ids": np.array([[0, 3, 7]])})


def tied(hidden: int, block: int = 32, handed_on: tuple[str, ...] = ("Reshape",), sizes=None) -> onnx.ModelProto:
    """onnxruntime-genai's: the head's weight, reshaped, is the embedding, padded to whole blocks and sliced again."""
    rng = np.random.default_rng(0)
    blocks = -(-hidden // block)
    padded = blocks * block
    weights = {
        "w": rng.integers(0, 256, (ROWS, blocks, block // 2)).astype(np.uint8),
        "s": (rng.random((ROWS, blocks)) + 0.1).astype(np.float32),
        "sizes": np.array(sizes or [ROWS, padded // 2]),
        "from": np.array([0]),
        "to": np.array([hidden]),
        "last": np.array([-1]),
    }
    nodes = []
    held = "w"
    for k, op in enumerate(handed_on):
        nodes.append(make(op, [held, "sizes"] if op == "Reshape" else [held], [f"h{k}"]))
        held = f"h{k}"
    options = {"domain": "com.microsoft", "bits": 4, "block_size": block}
    nodes += [
        make("GatherBlockQuantized", [held, "input_ids", "s"], ["row"], gather_axis=0, quantize_axis=1, **options),
        make("Slice", ["row", "from", "to", "last"], ["e"]) if padded != hidden else make("Identity", ["row"], ["e"]),
        make("MatMulNBits", ["e", "w", "s"], ["y"], K=hidden, N=ROWS, **options),
    ]
    weights = {name: a for name, a in weights.items() if any(name in node.input for node in nodes)}
    ids = info("input_ids", onnx.TensorProto.INT64, ("batch", "length"))
    return assemble(
        nodes, weights, inputs=[ids], outputs=[info("y", shape=("batch", "length", ROWS))], opsets=[MICROSOFT]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 64},
        {"hidden": 80},
        {"hidden": 64, "handed_on": ("Identity", "Reshape", "Identity")},
        {"hidden": 64, "sizes": [0, -1]},
    ],
    ids=str,
)
def test_one_packed_weight_is_a_head_here_and_an_embedding_there(options) -> None:
    proto = tied(**options)
    assert_read_as_it_runs(proto, {"input_ids": np.array([[0, 3, 7]])})
    model = from_proto(proto)
    assert [note.split(" are read")[0] for note in model.notes] == [
        "1 weights of GatherBlockQuantized",
        "1 weights of MatMulNBits",
    ]
    whole = options["hidden"] % 32 == 0
    assert [n.op for n in model.graph.nodes].count("Transpose") == whole, "tied again where nothing pads it"
    weights = sorted(a.shape for a in model.constants().values() if a.ndim == 2)
    assert weights == ([(ROWS, 64)] if whole else [(ROWS, 96), (80, ROWS)])
    assert not [n for n in model.graph.nodes if n.op == "Reshape"], "nothing reads it any more"


def test_a_packed_weight_that_is_fed_is_refused() -> None:
    proto = tied(64)
    (held,) = (t for t in proto.graph.initializer if t.name == "w")
    proto.graph.initializer.remove(held)
    proto.graph.input.append(info("w", onnx.TensorProto.UINT8, (ROWS, 2, 16)))
    with pytest.raises(UnsupportedGraph, match=r"GatherBlockQuantized node .* operand 0 .* is computed, no weight"):
        from_proto(proto)


def matrix(rows: int, columns: int, block: int, kind=np.float32) -> onnx.ModelProto:
    """A product with four bits a number."""
    rng = np.random.default_rng(0)
    blocks = -(-rows // block)
    weights = {
        "w": rng.integers(0, 256, (columns, blocks, block // 2)).astype(np.uint8),
        "s": (rng.random((columns, blocks)) + 0.1).astype(kind),
        "z": rng.integers(0, 256, (columns, -(-blocks // 2))).astype(np.uint8),
    }
    options = {"domain": "com.microsoft", "bits": 4, "block_size": block, "K": rows, "N": columns}
    shapes = {"inputs": [info("x", shape=(2, rows))], "outputs": [info("y", shape=(2, columns))]}
    return assemble([make("MatMulNBits", ["x", *weights], ["y"], **options)], weights, opsets=[MICROSOFT], **shapes)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("at_once", [1, 100, 200])
def test_a_weight_is_read_some_columns_or_rows_at_a_time(monkeypatch, at_once: int, zero: bool) -> None:
    protos = [table(80, 32, zero), matrix(80, 7, 32)]
    whole = [from_proto(proto).constants() for proto in protos]
    monkeypatch.setattr(dequantise, "AT_ONCE", at_once)
    for proto, wanted in zip(protos, whole, strict=True):
        assert {n: a.tobytes() for n, a in from_proto(proto).constants().items()} == {
            n: a.tobytes() for n, a in wanted.items()
        }


def test_reading_takes_little_more_than_what_is_read() -> None:
    proto = matrix(1024, 8192, 32, np.float16)
    tracemalloc.start()
    model = from_proto(proto)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (held,) = (a for a in model.constants().values() if a.ndim == 2)
    assert held.dtype == np.float16
    assert peak < 2.5 * held.nbytes


def test_what_is_beyond_a_gigabyte_lies_on_the_disk(monkeypatch) -> None:
    proto = matrix(1024, 8192, 32)
    (wanted,) = (a for a in from_proto(proto).constants().values() if a.ndim == 2)
    monkeypatch.setattr(dequantise, "HELD", 1 << 20)
    tracemalloc.start()
    model = from_proto(proto)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (held,) = (a for a in model.constants().values() if a.ndim == 2)
    assert left < held.nbytes / 4
    assert held.dtype == wanted.dtype
    assert np.array_equal(held, wanted)
    assert not held.flags.writeable
    assert_read_as_it_runs(proto, {"x": np.ones((2, 1024), np.float32)})


def test_a_full_disk_is_named(monkeypatch, tmp_path) -> None:
    def full(**_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dequantise, "HELD", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)  # no disk can be filled here
    with pytest.raises(BadModel, match=r"no room for 2,240 bytes of weights \(No space left on device\): set TMPDIR"):
        from_proto(matrix(80, 7, 32))
