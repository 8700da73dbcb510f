"""A clone's nodes are held against the parent's: what no comparison of numbers sees where the oracle does not apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pipeline
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.verification import claims, nodes
from graphclone.verification.numbers import Ratios, number
from tests.surgery.parents import parent

CELLS = [("gpt2", "torchscript"), ("llama", "dynamo"), ("bert", "dynamo"), ("vit-tiny", "torchscript")]
CHECK = "slices follow the plan"


def made(cell, **target):
    found = parent(*cell)
    chosen = pipeline.plan(found.anatomy, None, Target(**target), importance="uniform", method="none")
    return found, pipeline.clone(found.model, chosen, anatomy=found.anatomy)


def faults(before: Model, after: Model) -> list[str]:
    return list(nodes.faults(before, after, claims.read(after)))


def scores(model):
    """The first product of queries and keys."""
    softmax = next(n for n in model.graph.nodes if n.op == "Softmax")
    waiting = list(softmax.inputs)
    while waiting:
        node = waiting.pop(0).inputs[0]
        if node.op == "MatMul":
            return node
        waiting += [t for t in node.inputs if t.inputs]
    raise AssertionError("no product before the softmax")


def another_operator(model):
    softmax = next(n for n in model.graph.nodes if n.op == "Softmax")
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    return "is a Softmax in the parent"


def another_axis(model):
    next(n for n in model.graph.nodes if n.op == "Softmax").attrs["axis"] = 1
    return "has axis = 1"


def operands_exchanged(model):
    node = scores(model)
    node.inputs = list(reversed(node.inputs))
    return "in the parent"


def weights_exchanged(model):
    first, second = [
        n for n in model.graph.nodes if n.op in ("MatMul", "Gemm") and isinstance(n.inputs[1], gs.Constant)
    ][:2]
    first.inputs[1], second.inputs[1] = second.inputs[1], first.inputs[1]
    return "reads a slice of"


def one_node_more(model):
    node = scores(model)
    between = gs.Variable("between", np.float32)
    model.graph.nodes.append(gs.Node("Neg", "added", {}, [node.inputs[0]], [between]))
    node.inputs[0] = between
    return "makes nothing that the parent makes"


TAMPERED = [another_operator, another_axis, operands_exchanged, weights_exchanged, one_node_more]


@pytest.mark.parametrize("tamper", TAMPERED)
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_another_graph_of_the_same_weights_is_found_under_a_cut_head_dim(cell, tamper):
    found, clone = made(cell, head_dim="50%")
    assert faults(found.model, clone) == []
    why = tamper(clone)
    assert any(why in fault for fault in faults(found.model, clone)), faults(found.model, clone)
    assert CHECK in [c.name for c in pipeline.verify(found.model, clone).checks if not c.passed]


@pytest.mark.parametrize("times", [-1.0, -100.0, 100.0, 1.2])
def test_a_scale_that_no_cut_explains_is_found(times):
    found, clone = made(("gpt2", "torchscript"), head_dim="50%")
    held = [t for n, t in clone.graph.tensors().items() if n.startswith("graphclone_size") and t.dtype == np.float32]
    assert held
    for tensor in held:
        tensor.values = np.float32(times) * tensor.values
    assert len(faults(found.model, clone)) >= len(held)
    assert all("which no cut explains" in fault for fault in faults(found.model, clone))


def test_another_epsilon_is_found():
    found, clone = made(("gpt2", "torchscript"), head_dim="50%")
    norms = [n for n in clone.graph.nodes if n.op == "LayerNormalization"]
    for node in norms:
        node.attrs["epsilon"] = 10.0
    assert ["has epsilon = 10.0" in fault for fault in faults(found.model, clone)] == [True] * len(norms)


PLANS = {
    "a block dropped": {"drop_blocks": {"blocks": (1,)}},
    "an attention dropped": {"drop_attention": {"blocks": (0,)}},
    "a feed-forward dropped": {"drop_feed_forward": {"blocks": (1,)}},
    "a block repeated": {"repeat_blocks": {"blocks": (0, 0)}},
    "all of them": {
        "drop_attention": {"blocks": (0,)},
        "drop_feed_forward": {"blocks": (1,)},
        "repeat_blocks": {"blocks": (0,)},
    },
}


@pytest.mark.parametrize("what", PLANS)
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_blocks_may_be_gone_or_there_twice_and_their_nodes_are_still_the_parents(cell, what):
    found = parent(*cell)
    fields = {name: {found.anatomy.stacks[0].name: next(iter(v.values()))} for name, v in PLANS[what].items()}
    plan = replace(Plan(found.anatomy.fingerprint, {}, method="none"), **fields)
    clone = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    assert faults(found.model, clone) == []
    another_operator(clone)
    assert any("is a Softmax in the parent" in fault for fault in faults(found.model, clone))


def test_a_size_stands_where_a_size_is_read(parent: Model, make_clone: Callable[..., Model]) -> None:
    clone = make_clone()
    assert faults(parent, clone) == []
    held = claims.read(clone)
    spoiled = replace(held, slices={**held.slices, "up_bias": claims.Slice(None)})
    assert [why for why in nodes.faults(parent, clone, spoiled) if "up_add" in why]


def test_ratios_are_powers_of_what_was_kept():
    held = claims.Claims(
        Plan("", {"qk_dim": tuple(range(6))}, method="none"), "", "none", "0", {}, groups={"qk_dim": 12}
    )
    ratios = Ratios(held, {})
    assert all(ratios.explain(0.5**p, 1.0, "float32") for p in (0, 1, -1, 0.5, -0.5, 0.25, -0.25))
    assert ratios.explain(5 / 11, 1.0, "float32"), "what an unbiased variance divides by"
    assert not any(ratios.explain(x, 1.0, "float32") for x in (-1.0, 0.0, 0.9, 3.0, np.nan, np.inf))


def test_a_number_that_is_computed_from_constants_is_known():
    root = gs.Variable("root")
    gs.Node("Sqrt", inputs=[gs.Constant("d", np.asarray([16.0], np.float32))], outputs=[root])
    assert number(root) == 4.0
    assert number(gs.Variable("fed")) is None
    assert number(gs.Constant("several", np.asarray([1.0, 2.0], np.float32))) is None
