"""What onnx-graphsurgeon does not hand on as it is: words, sparse tensors, empty lists, what a file says of itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from graphclone import graph, saving
from graphclone.errors import BadModel
from tests.tiny_models import WEIGHT, assemble, info, make, tiny, written

INT64 = onnx.TensorProto.INT64


def test_words_are_written_as_words(tmp_path):
    """Names of classes behind an ArgMax; more than a kilobyte of them, and in a body."""
    for count in (3, 300):
        words = np.array([f"class {k}" for k in range(count)], dtype=object)
        proto = assemble([make("Gather", ["words", "x"], ["y"])], {"words": words}, inputs=[info("x", INT64, [2])])
        proto.graph.output[0].CopyFrom(info("y", onnx.TensorProto.STRING, [2]))
        model = graph.load(written(tmp_path, proto))
        saving.save(model, tmp_path / "again.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "again.onnx", providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": np.array([0, 2])})[0].tolist() == ["class 0", "class 2"]
        assert model.constants()["words"].tolist() == words.tolist()
        assert len(graph.from_proto(proto).sha256) == 64


def test_words_in_the_body_of_an_if(tmp_path):
    held = onnx.numpy_helper.from_array(np.array(["yes", "no"], dtype=object), "words")
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.STRING, [2])
    body = onnx.helper.make_graph([make("Identity", ["words"], ["out"])], "body", [], [out], [held])
    nodes = [make("If", ["x"], ["y"], then_branch=body, else_branch=body)]
    outputs = [info("y", onnx.TensorProto.STRING, [2])]
    proto = assemble(nodes, {}, inputs=[info("x", onnx.TensorProto.BOOL, [])], outputs=outputs)
    saving.save(graph.from_proto(proto), tmp_path / "again.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "again.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array(True)})[0].tolist() == ["yes", "no"]


def sparse(places, shape, name="sparse"):
    numbers = onnx.numpy_helper.from_array(np.array([1.5, -2.0], np.float32), name)
    indices = onnx.numpy_helper.from_array(np.array(places, np.int64), f"{name}.places")
    return onnx.helper.make_sparse_tensor(numbers, indices, list(shape))


@pytest.mark.parametrize("places", [[3, 40], [[0, 3], [1, 8]]], ids=["flat", "rows"])
@pytest.mark.parametrize("where", ["initializer", "node"])
def test_sparse_tensors_are_filled_up(places, where):
    """Of 16 x 32 numbers two are not zero."""
    held = sparse(places, (16, 32))
    nodes = [make("MatMul", ["x", "sparse"], ["y"])]
    proto = assemble([make("Constant", [], ["sparse"], sparse_value=held), *nodes] if where == "node" else nodes, {})
    if where == "initializer":
        proto.graph.sparse_initializer.append(held)
    before = proto.SerializeToString()
    wanted = np.zeros((16, 32), np.float32)
    wanted[0, 3], wanted[1, 8] = 1.5, -2.0
    assert np.array_equal(graph.from_proto(proto).constants()["sparse"], wanted)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(("places", "shape"), [([3, 512], (16, 32)), ([0, 1], (1 << 20, 1 << 20)), ([1], (16, 32))])
def test_sparse_tensors_that_do_not_fit_are_refused(tmp_path, places, shape):
    proto = assemble([make("MatMul", ["x", "sparse"], ["y"])], {})
    proto.graph.sparse_initializer.append(sparse(places, shape))
    with pytest.raises(BadModel, match="sparse tensor sparse"):
        graph.load(written(tmp_path, proto))


def test_a_list_that_is_empty_is_written_as_one():
    """ReduceSum over no axes; an operator that onnx does not know; in a body too."""
    nodes = [make("ReduceSum", ["x"], ["r"], keepdims=0), make("Odd", ["r"], ["s"], domain="of.others")]
    names = {"ReduceSum": ("axes", onnx.AttributeProto.INTS), "Odd": ("what", onnx.AttributeProto.INTS)}
    for node in nodes:
        name, kind = names[node.op_type]
        node.attribute.add(name=name, type=kind)
    body = onnx.helper.make_graph(list(nodes), "body", [], [onnx.ValueInfoProto(name="s")])
    outer = [make("If", ["flag"], ["y"], then_branch=body, else_branch=body), *nodes]
    inputs = [info("x"), info("flag", onnx.TensorProto.BOOL, [])]
    proto = assemble(outer, {}, inputs=inputs, outputs=[info("y"), info("s")])
    model = graph.from_proto(proto)
    again, _ = graph.to_proto(model)
    inner = again.graph.node[0].attribute[0].g.node
    for written_again in (again.graph.node[1:], inner):
        assert [{a.name: (list(a.ints), a.type) for a in n.attribute} for n in written_again] == [
            {"keepdims": ([], onnx.AttributeProto.INT), "axes": ([], onnx.AttributeProto.INTS)},
            {"what": ([], onnx.AttributeProto.INTS)},
        ]
    assert model.graph.nodes[1].attrs["axes"] == []


def test_numbers_that_sizes_may_be_computed_from_stay_in_the_protobuf():
    """Shape inference reads them there alone."""
    held = {"table": np.arange(512), "w": WEIGHT}
    nodes = [make("Gather", ["table", "i"], ["n"]), make("MatMul", ["x", "w"], ["y"])]
    inputs = [info("i", INT64, [1]), info("x", shape=("batch", 16))]
    proto, arrays = graph.to_proto(
        graph.from_proto(assemble(nodes, held, inputs=inputs, outputs=[info("y"), info("n", INT64, [1])]))
    )
    assert arrays.keys() == {"w"}
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def test_standard_operators_by_their_long_name():
    """onnx.proto has two names for one domain, in the list of operator sets and at each node."""
    proto = tiny()
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.node[0].domain = "ai.onnx"
    written_again, _ = graph.to_proto(graph.from_proto(proto))
    assert [(each.domain, each.version) for each in written_again.opset_import] == [("", 17)]
    assert [node.domain for node in written_again.graph.node] == [""]


def test_what_a_file_says_of_itself(tmp_path):
    proto = tiny()
    proto.model_version, proto.domain, proto.doc_string = 7, "org.example", "of whom it is"
    for name in ("w", "gone"):
        proto.graph.quantization_annotation.add(tensor_name=name)
    saving.save(graph.load(written(tmp_path, proto)).detached(), tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert (again.model_version, again.domain, again.doc_string) == (7, "org.example", "of whom it is")
    assert [each.tensor_name for each in again.graph.quantization_annotation] == ["w"]
