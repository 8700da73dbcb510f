"""A parent that is read otherwise than it runs is found, whatever was misread; where nothing is rewritten, no check."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import models
from graphclone import dequantise, graph, normal_form, pipeline
from graphclone.branches import inline_branches
from graphclone.errors import UnsupportedGraph
from graphclone.planner import Target
from graphclone.verification import Verdict, memory, reading, sessions
from tests.test_branches import body, chosen, whole
from tests.test_dequantise import blocked, table, tied
from tests.test_normal_form import _skips
from tests.tiny_models import make, tiny, written

REWRITTEN = {
    "blocks": (lambda: blocked(np.int8, 80, 32), "1 weights of DequantizeLinear"),
    "four bits": (lambda: blocked(ml_dtypes.int4, 40, 16, 1, zero=True), "1 weights of DequantizeLinear"),
    "embedding": (lambda: table(80, 32), "1 weights of GatherBlockQuantized"),
    "tied": (lambda: tied(80), "1 weights of GatherBlockQuantized, 1 weights of MatMulNBits"),
    "norms": (lambda: _skips("SkipLayerNormalization", last_uses_sum=True), "2 fused norms"),
    "branch": (lambda: whole([chosen("y", body(1, "a1"), body(2, "a2"))]), "1 branches that are always taken"),
}


def coarse(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As onnxruntime-genai writes it: what is multiplied may be rounded to 8 bits."""
    for node in proto.graph.node:
        if node.op_type == "MatMulNBits":
            node.attribute.append(onnx.helper.make_attribute("accuracy_level", 4))
    return proto


def read(folder, name: str) -> graph.Model:
    return graph.load(written(folder, coarse(REWRITTEN[name][0]())))


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_is_read_as_it_runs_passes(tmp_path, name):
    (check,) = reading.examine(read(tmp_path, name))
    assert check.verdict is Verdict.PASSED, check
    assert check.detail.endswith(f"written otherwise: {REWRITTEN[name][1]}")


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_reading_with_another_number_fails(tmp_path, name):
    model = read(tmp_path, name)
    held = [t for t in model.graph.tensors().values() if isinstance(t, gs.Constant) and t.dtype == np.float32]
    perturbed = max(held, key=lambda t: t.values.size)
    perturbed.values = perturbed.values * np.float32(1.01)
    (check,) = reading.examine(model)
    assert check.verdict is Verdict.FAILED
    assert check.value > 10 * check.tolerance


def test_misreadings_of_every_kind_fail(tmp_path, monkeypatch):
    def misread(name, module, thing, wrong):
        with monkeypatch.context() as patch:
            patch.setattr(module, thing, wrong)
            (check,) = reading.examine(read(tmp_path, name))
        assert check.verdict is Verdict.FAILED, name

    right = dequantise.unpacked
    misread("embedding", dequantise, "unpacked", lambda packed, bits: right(packed, bits)[..., ::-1])
    misread("tied", dequantise, "unpacked", lambda packed, bits: right(packed, bits)[..., ::-1])
    spread = dequantise._spread
    misread("blocks", dequantise, "_spread", lambda *given: np.roll(spread(*given), 1, axis=0))
    misread("branch", normal_form, "inline_branches", _other_branch)


def _other_branch(nodes: gs.Graph) -> int:
    (node,) = [n for n in nodes.nodes if n.op == "If"]
    node.attrs["then_branch"] = node.attrs["else_branch"]
    return inline_branches(nodes)


def test_where_nothing_is_written_otherwise_nothing_is_asked(tmp_path):
    assert reading.examine(graph.load(written(tmp_path, tiny()))) == []
    assert reading.examine(read(tmp_path, "norms").detached()) == []


def test_what_cannot_be_run_beside_the_file_is_said(tmp_path, monkeypatch):
    (check,) = reading.examine(graph.from_proto(REWRITTEN["norms"][0]()))
    assert (check.verdict, check.detail) == (
        Verdict.NOT_APPLICABLE,
        "the parent is no file on disk; written otherwise: 2 fused norms",
    )
    model = read(tmp_path, "norms")
    monkeypatch.setattr(memory, "available", lambda: 0)
    (check,) = reading.examine(model)
    assert check.verdict is Verdict.NOT_APPLICABLE
    assert check.detail.startswith("not run: it takes about")


def test_a_file_that_does_not_run_itself_is_no_fault_of_the_reading(tmp_path):
    model = read(tmp_path, "norms")
    proto = onnx.load(model.path)
    proto.graph.node[0].op_type = "NoSuchNorm"
    written(tmp_path, proto)
    (check,) = reading.examine(model)
    assert check.verdict is Verdict.NOT_APPLICABLE
    assert "ONNX Runtime refuses to load the file" in check.detail


def test_a_model_that_does_not_load_is_named_by_its_file(tmp_path):
    model = read(tmp_path, "norms")
    model.graph.nodes[0].op = "NoSuchNorm"
    with pytest.raises(UnsupportedGraph, match=f"^{model.path}: ONNX Runtime refuses to load it: "):
        sessions.open_session(model)


def test_verify_asks_it_of_every_such_parent(tmp_path):
    proto = onnx.load(models.cached("llama", exporter="torchscript"))
    (out,) = proto.graph.output
    next(n for n in proto.graph.node if out.name in n.output).output[0] = "raw"
    bodies = [
        onnx.helper.make_graph([make(op, ["raw"], [op])], op, [], [onnx.ValueInfoProto(name=op)])
        for op in ("Identity", "Neg")
    ]
    proto.graph.node.append(chosen(out.name, *bodies))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model = graph.load(written(tmp_path, proto))
    anatomy = pipeline.inspect(model)
    plan = pipeline.plan(anatomy, None, Target(ffn="50%"), importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    report = pipeline.verify(model, made, plan)
    assert report.passed
    assert [check.verdict for check in report.checks if check.name == reading.NAME] == [Verdict.PASSED]
    softmax = next(n for n in model.graph.nodes if n.op == "Softmax")  # as if it had been misread, in clone and parent
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    assert reading.NAME in {check.name for check in pipeline.verify(model, made, plan).failures}
