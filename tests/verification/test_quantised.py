"""The zeroed parent of quantised files: integers stand for zero at their zero point, whoever multiplies them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

import models
from graphclone import graph, pipeline
from graphclone.cli.app import run
from graphclone.errors import UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.planner import Target
from graphclone.verification import Verdict, claims, oracle


class TwoBatches(CalibrationDataReader):
    """What static quantisation is calibrated on."""

    def __init__(self, file):
        self.left = [tiny_feeds(graph.load(file), batch, length) for batch, length in ((2, 7), (3, 11))]

    def get_next(self):
        return self.left.pop() if self.left else None


# onnxruntime divides by the range of what a mask made infinite
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
POINTS = {"DequantizeLinear": (0, 2), "MatMulInteger": (1, 3)}  # weight, zero point
UINT8 = {"weight_type": QuantType.QUInt8}


def static(source, made, **more):
    quantize_static(source, made, TwoBatches(source), activation_type=QuantType.QUInt8, **UINT8, **more)


HOW = {
    "dynamic": quantize_dynamic,
    "dynamic-uint8": partial(quantize_dynamic, **UINT8),
    "dynamic-uint8-columns": partial(quantize_dynamic, **UINT8, per_channel=True),
    "static-uint8": static,
    "static-uint8-channels": partial(static, per_channel=True),
}


@pytest.fixture(scope="module", params=HOW)
def quantised(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("quantised") / "model.onnx"
    HOW[request.param](models.cached("bert", exporter="torchscript"), file)
    model = graph.load(file)
    return model, pipeline.inspect(model)


def made(quantised, **target):
    model, anatomy = quantised
    chosen = pipeline.plan(anatomy, None, Target(**target), importance="first", method="none")
    return pipeline.clone(model, chosen, anatomy=anatomy)


def examined(quantised, clone):
    return oracle.examine(quantised[0], clone, claims.read(clone))


@pytest.mark.parametrize("target", [{"ffn": "50%"}, {"heads": "50%"}, {"hidden": "50%"}], ids=str)
def test_a_clone_is_its_parent_with_integers_at_their_zero_points(quantised, target):
    check = examined(quantised, made(quantised, **target))
    assert check.verdict is Verdict.PASSED, check


def test_a_clone_that_computes_something_else_is_found(quantised):
    clone = made(quantised, ffn="50%", heads="50%")
    softmax = next(node for node in clone.graph.nodes if node.op == "Softmax")
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    assert examined(quantised, clone).verdict is Verdict.FAILED


def test_a_clone_with_another_zero_point_is_found(quantised):
    clone = made(quantised, ffn="50%")
    points = [
        node.inputs[POINTS[node.op][1]]
        for node in clone.graph.nodes
        if node.op in POINTS and isinstance(node.inputs[POINTS[node.op][0]], gs.Constant) and len(node.inputs) > 2
    ]
    point = next(p for p in points if p.values.dtype.itemsize == 1)
    point.values = np.asarray(point.values ^ 64, point.values.dtype)
    assert examined(quantised, clone).verdict is Verdict.FAILED


def test_weights_of_16_bits_count_as_the_numbers_they_are(tmp_path):
    file = models.cached("bert", exporter="torchscript")
    whole = {"UseQDQContribOps": True}
    wide = {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt16, "extra_options": whole}
    quantize_static(file, tmp_path / "wide.onnx", TwoBatches(file), **wide)
    model = graph.load(tmp_path / "wide.onnx")
    anatomy = pipeline.inspect(model)
    assert set(anatomy.stored) == {"int16", "uint16", "int32"}  # tables are rounded as activations, a bias is wider
    assert anatomy.parameters == pipeline.inspect(graph.load(file)).parameters
    check = examined((model, anatomy), made((model, anatomy), ffn="50%", heads="50%"))
    assert check.verdict is Verdict.PASSED, check


def test_the_default_leaves_out_what_integers_cannot_be_given_and_a_pass_that_is_named_is_refused(quantised):
    model, anatomy = quantised
    target = Target(heads=2, layers=1)
    best, named = (pipeline.plan(anatomy, None, target, importance="first", method=m) for m in ("best", "paper"))
    assert (best.method, named.method) == ("none", "paper")
    assert pipeline.clone(model, best, anatomy=anatomy).graph.nodes
    with pytest.raises(UnsupportedGraph, match="holds integers that nothing multiplies: clone with method none"):
        pipeline.clone(model, named, anatomy=anatomy)
    assert pipeline.plan(anatomy, None, Target(layers=1), importance="first").method == "paper", "no weight is cut"


def test_the_command_says_that_weights_are_not_scaled(quantised, tmp_path, capsys):
    model, _ = quantised
    how = ["--heads", "2", "--importance", "first"]
    assert run(["clone", str(model.path), str(tmp_path / "small.onnx"), *how]) == 0
    assert "holds integers that nothing multiplies" in capsys.readouterr().err
    assert run(["clone", str(model.path), str(tmp_path / "named.onnx"), *how, "--method", "paper"]) == 3
