"""Products that multiply their weight or bias by a number: what is fitted is written as that product takes it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.surgery.operate import clone
from graphclone.target import Target
from graphclone.verification import verify
from tests.surgery.parents import parent
from tests.surgery.silenced import answer, data, measured

ALPHA, BETA = 0.5, 0.25  # powers of two: nothing is rounded
CUTS = {
    "mean-bias": Target(ffn=40),
    "least-squares": Target(ffn=40, heads=2),
    "norm-gain+read-in": Target(hidden="50%"),
    "depth-patch": Target(layers=2),
    "norm-gain+least-squares+depth-patch+read-in": Target(hidden="50%", ffn=80, layers=2),
}


def by_attributes(node, weight, bias):
    """alpha and beta of Gemm; alpha of ONNX Runtime's FusedMatMul."""
    if node.op == "MatMul":
        node.op, node.domain = "FusedMatMul", "com.microsoft"
    node.attrs["alpha"] = ALPHA
    weight.values = weight.values / np.float32(ALPHA)
    if bias is not None:
        node.attrs["beta"] = BETA
        bias.values = bias.values / np.float32(BETA)


def by_a_node(node, weight, bias):
    """A number that multiplies the weight before its product."""
    weight.values = weight.values / np.float32(ALPHA)
    turned = gs.Variable(f"{weight.name}_scaled", np.float32)
    number = gs.Constant(f"{weight.name}_number", np.array(ALPHA, np.float32))
    before = gs.Node("Mul", f"{node.name}_scaling", inputs=[weight, number], outputs=[turned])
    node.inputs[1] = turned
    return before


def written(found, way):
    """The same parent, every product of a weight of its own scaled in some way."""
    model = found.model.copy()
    model.path = None
    model.__dict__.pop("sha256", None)
    read = Counter(t.name for n in model.graph.nodes for t in n.inputs)
    nodes, count = [], 0
    for node in model.graph.nodes:
        constants = [t if isinstance(t, gs.Constant) and read[t.name] == 1 else None for t in node.inputs]
        weight, bias = ([*constants[1:3], None, None])[:2]
        fits = weight is not None and weight.values.ndim == 2 and node.op in ("Gemm", "MatMul")
        if fits and (bias is not None or len(node.inputs) < 3):
            before = way(node, weight, bias)
            nodes += [before] if before is not None else []
            count += 1
        nodes.append(node)
    model.graph.nodes = nodes
    assert count > 6
    return replace(found, model=model, anatomy=inspect(model))


def corrected(found, method, batches=24):
    first = measured(found, batches, moments=True)
    plan = pipeline.plan(found.anatomy, first, CUTS[method], method=method)
    fed = data(found.model, batches)
    second = None
    if pipeline.takes_second_pass(found.anatomy, plan):
        second = pipeline.measure_kept(found.model, plan, fed, anatomy=found.anatomy, provider="cpu", threads=1)
    made = clone(found.model, found.anatomy, plan, first, second)
    assert verify(found.model, made, plan).passed
    return made, fed[0]


WRITTEN = [
    ("gpt2", "torchscript", by_attributes),
    ("bert", "torchscript", by_attributes),
    ("gpt2", "dynamo", by_a_node),
]


@pytest.mark.parametrize(
    ("recipe", "exporter", "way", "method"),
    # a BERT's outputs are the stream: another shape where that is cut
    [(*row, method) for row in WRITTEN for method in CUTS if row[0] != "bert" or CUTS[method].hidden is None],
)
def test_a_clone_is_the_same_however_its_parent_writes_the_weight(recipe, exporter, way, method):
    plain = parent(recipe, exporter)
    other = written(plain, way)
    made, fed = corrected(plain, method)
    again, _ = corrected(other, method)
    wanted = answer(made, fed)
    assert np.abs(answer(plain.model, fed) - wanted).max() > 1e-3
    np.testing.assert_allclose(answer(again, fed), wanted, atol=1e-5)


def test_a_weight_that_a_vector_multiplies_keeps_its_slice():
    def by_a_vector(node, weight, bias):
        before = by_a_node(node, weight, bias)
        before.inputs[1].values = np.full(weight.values.shape[1], ALPHA, np.float32)
        return before

    found = written(parent("gpt2", "dynamo"), by_a_vector)
    made, _ = corrected(found, "least-squares")
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert any("more than a number" in str(note.get("kept the slice")) for note in notes.values())
