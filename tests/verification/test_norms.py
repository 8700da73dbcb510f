"""A norm over channels that were cut is found, and made to leave them out; a cut beside it is not taken for one."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification.channels import mask
from graphclone.verification.claims import Claims, Slice
from graphclone.verification.norms import leave_out, narrowed
from graphclone.verification.sessions import open_session
from tests.tolerances import assert_close


def gain_first():
    """g x / |x|, then a projection of other channels, as many, with a bias."""
    x, y = gs.Variable("x", np.float32, ["batch", 8]), gs.Variable("y", np.float32)
    scaled, length, out = (gs.Variable(n, np.float32) for n in ("scaled", "length", "out"))
    gain, q, bias = (gs.Constant(n, np.ones(s, np.float32)) for n, s in (("gain", 8), ("q", (8, 8)), ("bias", 8)))
    product = gs.Variable("product", np.float32)
    nodes = [
        gs.Node("Mul", inputs=[gain, x], outputs=[scaled]),
        gs.Node("ReduceL2", attrs={"axes": [-1], "keepdims": 1}, inputs=[x], outputs=[length]),
        gs.Node("Div", inputs=[scaled, length], outputs=[y]),
        gs.Node("MatMul", inputs=[y, q], outputs=[product]),
        gs.Node("Add", inputs=[product, bias], outputs=[out]),
    ]
    return gs.Graph(nodes=nodes, inputs=[x], outputs=[out], opset=17, ir_version=8)


def test_a_gain_met_before_the_division_says_which_channels_are_kept():
    gain, others = np.array([0, 2, 3, 6]), np.array([1, 4, 5, 7])
    slices = {"gain": Slice("gain", (gain,)), "bias": Slice("bias", (others,)), "q": Slice("q", (gain, others))}
    claims = Claims(Plan("", {"residual": tuple(gain), "heads": tuple(others)}, method="none"), "", "none", "0", slices)
    kept = mask(gain_first().nodes[1], 8, 4, claims)
    assert np.flatnonzero(kept).tolist() == gain.tolist()


def test_what_makes_a_norms_input_says_which_channels_are_kept():
    kept, others = np.array([0, 2, 3, 6]), np.array([1, 4, 5, 7])
    claims = Claims(
        Plan("", {"a": tuple(kept), "b": tuple(others)}, method="none"),
        "",
        "none",
        "0",
        {"q": Slice("q", (None, kept))},
    )
    assert np.flatnonzero(mask(normed("ReduceMean", 8).graph.nodes[1], 8, 4, claims)).tolist() == kept.tolist()


def normed(op, queries, inner=6):
    """Queries of a width, normed across all heads, then a feed-forward whose inner width no norm sees."""
    x, y = gs.Variable("x", np.float32, ["batch", 8]), gs.Variable("y", np.float32)
    made, wide, out = (gs.Variable(n, np.float32) for n in ("queries", "wide", "out"))

    def weight(name, *sizes):
        return gs.Constant(name, np.ones(sizes, np.float32))

    project = gs.Node("MatMul", inputs=[x, weight("q", 8, queries)], outputs=[made])
    if op == "ReduceMean":
        norm = gs.Node(op, attrs={"axes": [-1], "keepdims": 1}, inputs=[made], outputs=[y])
        wide_from = weight("up", 1, inner)
    else:
        norm = gs.Node(op, inputs=[made, weight("gain", queries)], outputs=[y])
        wide_from = weight("up", queries, inner)
    up = gs.Node("MatMul", inputs=[y, wide_from], outputs=[wide])
    down = gs.Node("MatMul", inputs=[wide, weight("down", inner, 8)], outputs=[out])
    return Model(gs.Graph(nodes=[project, norm, up, down], inputs=[x], outputs=[out], opset=17, ir_version=8))


@pytest.mark.parametrize("op", ["ReduceMean", "LayerNormalization"])
def test_a_narrower_norm_is_named(op):
    assert narrowed(normed(op, 8), normed(op, 4)) == {"y": (8, 4)}
    assert narrowed(normed(op, 8), normed(op, 8, inner=3)) == {}, "the inner width is no norm's"


KEPT = np.array([0, 2, 3, 6])
SHAPES = {  # operator -> (inputs after x: "x" another summand, "g" a gain, "b" a bias), outputs
    "LayerNormalization": ("gb", 1),
    "RMSNormalization": ("g", 1),
    "SimplifiedLayerNormalization": ("g", 1),
    "SkipLayerNormalization": ("xgb", 4),
    "SkipSimplifiedLayerNormalization": ("xg", 4),
}


def norm_alone(op, width, rng, attributes, opset=17):
    """The operator over x [2, 3, width], with weights of its own."""
    domain = "com.microsoft" if op.startswith("Skip") else ""
    form, count = SHAPES[op]
    inputs = [gs.Variable("x", np.float32, [2, 3, width])]
    for k, kind in enumerate(form):
        name = f"{kind}{k}"
        weight = gs.Constant(name, rng.standard_normal(width).astype(np.float32))
        inputs.append(gs.Variable("other", np.float32, [2, 3, width]) if kind == "x" else weight)
    outputs = [gs.Variable("y", np.float32), *(gs.Variable("", np.float32) for _ in range(count - 2))]
    outputs += [gs.Variable("sum", np.float32)] if count > 1 else []
    node = gs.Node(op, "norm", attributes, inputs, outputs, domain=domain)
    fed = [t for t in inputs if isinstance(t, gs.Variable)]
    return Model(gs.Graph([node], fed, [t for t in outputs if t.name], opset=opset, ir_version=10))


OPSETS = {"RMSNormalization": (23,)}
OLD, NEW = 11, 17  # ONNX Runtime fuses norms whatever the opset; ReduceSum takes its axes as an input from 13 on


@pytest.mark.parametrize(("attributes", "scale"), [({"epsilon": 1e-2}, 1.0), ({}, 3e-3)], ids=["told", "by default"])
@pytest.mark.parametrize(("op", "opset"), [(op, opset) for op in SHAPES for opset in OPSETS.get(op, (OLD, NEW))])
def test_a_norm_that_leaves_channels_out_is_the_norm_over_the_others(op, opset, attributes, scale):
    whole, narrow = (norm_alone(op, width, np.random.default_rng(1), attributes, opset) for width in (8, 4))
    for name, tensor in narrow.graph.tensors().items():
        if isinstance(tensor, gs.Constant):
            tensor.values = whole.constants()[name][KEPT]
    slices = {name: Slice(name, (KEPT,)) for name in whole.constants()}
    claims = Claims(Plan("00", {"residual": tuple(map(int, KEPT))}), "00", "none", "0", slices)
    rng = np.random.default_rng(2)
    fed = {t.name: np.zeros((2, 3, 8), np.float32) for t in whole.graph.inputs}
    for array in fed.values():
        array[..., KEPT] = scale * (rng.standard_normal((2, 3, 4)) + 1)
    leave_out(whole, whole.copy(), narrow, claims)
    wanted = open_session(narrow).run({name: array[..., KEPT] for name, array in fed.items()})
    for name, array in open_session(whole).run(fed).items():
        assert_close(array[..., KEPT], wanted[name])


def test_where_no_gain_and_no_plan_says_which_channels_it_is_said():
    parent, clone = normed("ReduceMean", 8), normed("ReduceMean", 4)
    claims = Claims(Plan("00", {"a": (0, 1, 2, 3), "b": (4, 5, 6, 7)}), "00", "none", "0", {})
    with pytest.raises(UnsupportedGraph, match="not told over which 4 of 8 channels"):
        leave_out(parent.copy(), parent, clone, claims)


def test_a_sum_that_is_not_cut_beside_a_norm_that_is_stays_as_it_is():
    model, clone = normed("ReduceMean", 8), normed("ReduceMean", 4)
    for made in (model, clone):
        whole = gs.Variable("whole", np.float32)
        half = gs.Constant("half", np.asarray(0.5, np.float32))
        scaled = gs.Variable("scaled", np.float32)
        made.graph.nodes.append(
            gs.Node("ReduceL2", attrs={"axes": [-1]}, inputs=[made.graph.inputs[0]], outputs=[whole])
        )
        made.graph.nodes.append(gs.Node("Mul", inputs=[whole, half], outputs=[scaled]))
        made.graph.outputs.append(scaled)
    claims = Claims(Plan("", {"a": tuple(KEPT)}, method="none"), "", "none", "0", {"q": Slice("q", (None, KEPT))})
    before = model.copy()
    leave_out(before, model, clone, claims)
    assert [n.inputs[1].name for n in before.graph.nodes if n.op == "Mul" and n.outputs[0].name == "scaled"] == ["half"]
