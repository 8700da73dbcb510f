"""The probe leaves out what exporters guard softmax with, and takes it back where a row attends to nothing."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Site
from graphclone.graph import Model
from graphclone.statistics import nan_guards
from graphclone.statistics.assembly import Care, reduce_places
from graphclone.statistics.places import first_pass, lay_out
from graphclone.statistics.probe import Probe
from tests.tolerances import STATISTICS
from tools import measured

WIDTH, BLIND = 6, 0  # a token whose row of scores is all minus infinity
TABLE = np.random.default_rng(3).standard_normal((20, WIDTH)).astype(np.float32)


def attention() -> tuple[Model, Anatomy]:
    """One guarded attention over an embedding: tokens ``BLIND`` attend to nothing."""
    ids = gs.Variable("input_ids", np.int64, ["batch", "length"])
    mask = gs.Variable("attention_mask", np.int64, ["batch", "length"])
    y, seen = (
        gs.Variable("y", np.float32, ["batch", "length", WIDTH]),
        gs.Variable("seen", np.int64, ["batch", "length"]),
    )
    floats = {n: gs.Variable(n, np.float32) for n in ("x", "turned", "scores", "masked", "p", "guarded")}
    v = floats | {n: gs.Variable(n, bool) for n in ("blind", "rows", "nan")}
    minus, zero = gs.Constant("minus", np.array(-np.inf, np.float32)), gs.Constant("zero", np.array(0, np.float32))
    axis, token = gs.Constant("axis", np.array([2])), gs.Constant("token", np.array(BLIND))
    nodes = [
        gs.Node("Gather", "look", {}, [gs.Constant("table", TABLE), ids], [v["x"]]),
        gs.Node("Transpose", "turn", {"perm": [0, 2, 1]}, [v["x"]], [v["turned"]]),
        gs.Node("MatMul", "score", {}, [v["x"], v["turned"]], [v["scores"]]),
        gs.Node("Equal", "which", {}, [ids, token], [v["blind"]]),
        gs.Node("Unsqueeze", "row", {}, [v["blind"], axis], [v["rows"]]),
        gs.Node("Where", "hide", {}, [v["rows"], minus, v["scores"]], [v["masked"]]),
        gs.Node("Softmax", "softmax", {"axis": -1}, [v["masked"]], [v["p"]]),
        gs.Node("IsNaN", "isnan", {}, [v["p"]], [v["nan"]]),
        gs.Node("Where", "guard", {}, [v["nan"], zero, v["p"]], [v["guarded"]]),
        gs.Node("MatMul", "context", {}, [v["guarded"], v["x"]], [y]),
        gs.Node("Identity", "look_at_mask", {}, [mask], [seen]),
    ]
    model = Model(gs.Graph(nodes, [ids, mask], [y, seen], opset=18, ir_version=8))
    site = Site("y", "writer", "y", -1, WIDTH, None, {"residual": np.arange(WIDTH)})
    return model, Anatomy(model.sha256, (), {}, (site,), (), {})


def reference(ids) -> np.ndarray:
    x = TABLE[ids].astype(np.float64)
    scores = x @ x.transpose(0, 2, 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[ids == BLIND] = 0
    return (p @ x).reshape(-1, WIDTH)


def batch_of(ids) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_a_row_that_attends_to_nothing_brings_the_guards_back():
    model, anatomy = attention()
    probe = Probe.open(model, anatomy, provider="cpu")
    seeing = np.random.default_rng(0).integers(1, 20, (3, 7))
    probe.add(batch_of(seeing), "batch 1")
    assert probe.care is Care.TRUSTING
    blind = seeing.copy()
    blind[1, 2] = BLIND
    probe.add(batch_of(blind), "batch 2")
    assert probe.care is Care.EXPORTED
    expected = np.concatenate([reference(seeing), reference(blind)])
    np.testing.assert_allclose(probe.sums()["y"]["sum"], expected.sum(0), rtol=STATISTICS)
    assert probe.sums()["y"]["count"] == len(expected)


def test_guards_that_something_else_reads_stay():
    model, _ = attention()
    assert nan_guards.leave_out(model.copy().graph, {"guarded"}) == 0
    shown = model.copy()
    shown.graph.outputs.append(shown.graph.tensors()["guarded"])
    assert nan_guards.leave_out(shown.graph) == 0
    assert nan_guards.leave_out(model.copy().graph) == 1


def test_what_only_looks_like_a_guard_stays():
    model, _ = attention()
    isnan = next(node for node in model.graph.nodes if node.op == "IsNaN")
    isnan.inputs = [model.graph.tensors()["masked"]]
    assert nan_guards.leave_out(model.graph) == 0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_sums_are_the_same_bytes_without_guards(family, parent_file):
    model = graph.load(parent_file(family, exporter="dynamo"))
    places = lay_out(model, first_pass(inspect(model)))
    assert reduce_places(model, places, Care.TRUSTING).care is Care.TRUSTING  # there are guards to leave out
    data = measured.padded(model, 2)
    found = {}
    for care in (Care.TRUSTING, Care.EXPORTED):
        probe = Probe.at(model, places, provider="cpu", threads=1)
        probe.care, probe.session = care, probe.adder.open(reduce_places(model, places, care), probe.provider, 1)
        for batch in data:
            probe.add(batch, "batch")
        assert probe.care is care
        found[care] = probe.sums()
    for place, held in found[Care.TRUSTING].items():
        for statistic, array in held.items():
            np.testing.assert_array_equal(array, found[Care.EXPORTED][place][statistic], f"{place} {statistic}")
