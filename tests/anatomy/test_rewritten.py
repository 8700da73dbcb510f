"""Optimisers rewrite one block and leave the next: they are blocks of one stack all the same."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.structure import expression


def as_gemm(model, product):
    """A MatMul with a square weight and the Add after it, as onnxsim writes them: flattened, Gemm, shaped back."""
    add = product.outputs[0].outputs[0]
    assert (product.op, add.op) == ("MatMul", "Add")
    x, weight = product.inputs
    bias = next(t for t in add.inputs if isinstance(t, gs.Constant))
    flat, made, size = (
        gs.Variable(f"{add.name}/{n}", t) for n, t in (("x", np.float32), ("y", np.float32), ("s", np.int64))
    )
    width = gs.Constant(f"{add.name}/width", np.array([-1, weight.values.shape[0]]))
    model.graph.nodes.extend(
        [
            gs.Node("Reshape", f"{add.name}/flat", inputs=[x, width], outputs=[flat]),
            gs.Node("Gemm", f"{add.name}/gemm", inputs=[flat, weight, bias], outputs=[made]),
            gs.Node("Shape", f"{add.name}/shape", inputs=[x], outputs=[size]),
            gs.Node("Reshape", f"{add.name}/back", inputs=[made, size], outputs=list(add.outputs)),
        ]
    )
    add.outputs.clear()
    model.graph.cleanup().toposort()


def test_one_block_with_gemms_is_a_block_like_the_others():
    model = graph.load(models.cached("bert", exporter="torchscript"))
    before = inspect(model)
    (block, *_) = before.stacks[0].blocks
    read = {w for a in block.attention for w in (*a.q, *a.k, *a.v)}
    products = [n for n in model.graph.nodes if n.op == "MatMul" and {t.name for t in n.inputs} & read]
    assert len(products) == 3
    for product in products:
        as_gemm(model, product)
    after = inspect(model)
    assert [len(s.blocks) for s in after.stacks] == [len(s.blocks) for s in before.stacks]
    assert after.stacks[0].blocks[0].attention[0].heads == block.attention[0].heads


def node(op, read, made, **attributes):
    return gs.Node(op, inputs=[gs.Variable(n) for n in read.split()], outputs=[gs.Variable(made)], attrs=attributes)


PLAIN = [node("MatMul", "x w", "p"), node("Add", "b p", "s"), node("Add", "s x", "t"), node("Norm", "t g", "y")]
ALIKE = {
    "another order": [
        node("MatMul", "x w", "p"),
        node("Add", "p x", "s"),
        node("Add", "b s", "t"),
        node("Norm", "t g", "y"),
    ],
    "a Gemm between reshapes": [
        node("Reshape", "x w", "r"),
        node("Gemm", "r w b", "p"),
        node("Reshape", "p w", "s"),
        node("Add", "x s", "t"),
        node("Norm", "t g", "y"),
    ],
}
OTHER = {
    "no bias": [PLAIN[0], node("Add", "p x", "t"), PLAIN[3]],
    "another operator": [*PLAIN[:2], node("Mul", "s x", "t"), PLAIN[3]],
    "the stream as the second factor": [node("MatMul", "w x", "p"), *PLAIN[1:]],
}
SKIPS = (  # the same norm of a sum with a bias: its own, or one that was added to the branch before
    [node("MatMul", "x w", "p"), node("SkipLayerNormalization", "p x g b b", "y")],
    [node("MatMul", "x w", "p"), node("Add", "p b", "s"), node("SkipLayerNormalization", "x s g b", "y")],
)


def structure(nodes):
    return expression("x", "y", nodes, lambda _node, _place: "weight")


@pytest.mark.parametrize("nodes", ALIKE.values(), ids=ALIKE)
def test_what_computes_the_same_has_one_structure(nodes):
    assert structure(nodes) == structure(PLAIN)


@pytest.mark.parametrize("nodes", OTHER.values(), ids=OTHER)
def test_what_computes_something_else_has_another(nodes):
    assert structure(nodes) != structure(PLAIN)


def test_a_norm_of_a_sum_may_add_the_bias_itself():
    assert (
        structure(SKIPS[0])
        == structure(SKIPS[1])
        != structure([SKIPS[0][0], node("SkipLayerNormalization", "p x g b", "y")])
    )
