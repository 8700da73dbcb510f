"""Rewrites on the way in keep the function, and do nothing where there is nothing to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from graphclone import normal_form
from graphclone.graph import from_proto, to_proto

RNG = np.random.default_rng(0)
HIDDEN, ROWS = 6, 11


def _run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def _whole(model) -> onnx.ModelProto:
    proto, arrays = to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    return proto


def _tied(head: np.ndarray, table: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "length", ROWS])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(head, "head")],
    )
    return helper.make_model(  # noqa: TID251  tests start from protobufs
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize("tile", [(4096, 256), (4, 3), (1, 1)])
def test_a_transposed_copy_of_the_embedding_becomes_one_tensor(monkeypatch, tile) -> None:
    monkeypatch.setattr(normal_form, "TILE", tile)
    table = RNG.standard_normal((ROWS, HIDDEN)).astype(np.float32)
    proto = _tied(np.ascontiguousarray(table.T), table)
    model = from_proto(proto)
    assert set(model.constants()) == {"table"}
    feeds = {"ids": RNG.integers(0, ROWS, (2, 3))}
    np.testing.assert_array_equal(_run(_whole(model), feeds)[0], _run(proto, feeds)[0])


@pytest.mark.parametrize("change", ["one number", "constant table"])
@pytest.mark.parametrize("tile", [(4096, 256), (4, 3)])
def test_a_head_of_its_own_stays_its_own(monkeypatch, change: str, tile) -> None:
    monkeypatch.setattr(normal_form, "TILE", tile)
    table = RNG.standard_normal((ROWS, HIDDEN)).astype(np.float32)
    if change == "constant table":  # equal to its transpose by accident, as all zeros are
        table = np.zeros_like(table)
    head = np.ascontiguousarray(table.T)
    if change == "one number":
        head[-1, -1] += 1
    assert set(from_proto(_tied(head, table)).constants()) == {"table", "head"}


def _skips(op: str, last_uses_sum: bool, scale: float = 1.0, **attributes: float) -> onnx.ModelProto:
    """Two skip-norms in a row; the second adds to the sum that the first hides. scale: of what is added before."""
    rms = "Simplified" in op
    weights = {n: RNG.standard_normal(HIDDEN).astype(np.float32) for n in ("gain", "bias", "extra")}
    weights["extra"] *= np.float32(scale)
    operands = ["gain", *([] if rms else ["bias"]), "extra"]
    nodes = [
        helper.make_node(op, ["x", "y", *operands], ["n1", "", "", "sum1"], domain="com.microsoft", **attributes),
        helper.make_node(
            op, ["sum1" if last_uses_sum else "n1", "n1", *operands], ["out"], domain="com.microsoft", **attributes
        ),
    ]
    shape = ["batch", "length", HIDDEN]
    graph = helper.make_graph(
        nodes,
        "skips",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in "xy"],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, n) for n, w in weights.items() if not (rms and n == "bias")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(  # noqa: TID251  tests start from protobufs
        graph, opset_imports=imports, ir_version=8
    )


@pytest.mark.parametrize(("attributes", "scale"), [({"epsilon": 1e-3}, 1.0), ({}, 1e-3)], ids=["told", "by default"])
@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_hidden_sum_is_shown_and_the_function_stays(op: str, attributes: dict[str, float], scale: float) -> None:
    proto = _skips(op, last_uses_sum=True, scale=scale, **attributes)
    model = from_proto(proto)
    assert not [n for n in model.graph.nodes if n.op.startswith("Skip")]
    assert sum(n.op == "Add" for n in model.graph.nodes) == 4
    feeds = {n: np.float32(scale) * RNG.standard_normal((2, 3, HIDDEN)).astype(np.float32) for n in "xy"}
    np.testing.assert_allclose(_run(_whole(model), feeds)[0], _run(proto, feeds)[0], rtol=1e-5, atol=1e-6)


def test_fused_norms_whose_sum_nobody_reads_stay_fused() -> None:
    proto = _skips("SkipLayerNormalization", last_uses_sum=False)
    assert [n.op for n in from_proto(proto).graph.nodes] == ["SkipLayerNormalization"] * 2


def test_a_fused_norm_among_plain_ones_is_shown_too() -> None:
    """An optimiser that fused the last norm of a stack alone: its sum is the end of a block like any other."""
    proto = _skips("SkipLayerNormalization", last_uses_sum=False)
    norms = [helper.make_node("LayerNormalization", [f"l{k}", "gain"], [f"l{k + 1}"]) for k in range(8)]
    norms[0].input[0] = "x"
    proto.graph.node[0].input[0] = "l8"
    graph = onnx.GraphProto(node=[*norms, *proto.graph.node])
    proto.graph.ClearField("node")
    proto.graph.node.extend(graph.node)
    model = from_proto(proto)
    assert not [n for n in model.graph.nodes if n.op.startswith("Skip")]
    feeds = {n: RNG.standard_normal((2, 3, HIDDEN)).astype(np.float32) for n in "xy"}
    np.testing.assert_allclose(_run(_whole(model), feeds)[0], _run(proto, feeds)[0], rtol=1e-5, atol=1e-5)
