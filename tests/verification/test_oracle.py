"""The zeroed parent, held against what surgery makes of real graphs: right clones equal it, wrong ones do not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import feeds, pipeline
from graphclone.plan import Plan
from graphclone.planner import Target, plan
from graphclone.surgery.operate import clone
from graphclone.verification import Verdict, claims, oracle
from graphclone.verification.scores import follow
from graphclone.verification.zeroed import Ambiguous
from tests.surgery.parents import parent, shuffled
from tests.surgery.zoo_parent import zoo_parent

CELLS = [("llama", "torchscript"), ("gpt2", "dynamo"), ("bert", "dynamo"), ("vit-tiny", "torchscript")]
HALF = {"hidden": "50%", "heads": "50%", "ffn": "50%"}


def made(found, target, method="none", **more):
    statistics = None
    if method != "none":
        fed = [feeds.tiny_feeds(found.model, 4, 24, seed=k) for k in range(3)]
        statistics = pipeline.measure(found.model, fed, anatomy=found.anatomy, threads=1)
    chosen = plan(found.anatomy, statistics, target, importance="uniform", method=method, **more)
    return clone(found.model, found.anatomy, chosen, statistics)


def examined(found, model):
    return oracle.examine(found.model, model, claims.read(model))


@pytest.mark.parametrize("method", ["none", "paper", "norm-gain"])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_narrower_residual_is_the_parent_with_norms_over_the_channels_kept(cell, method):
    found = parent(*cell)
    check = examined(found, made(found, Target(**HALF), method))
    assert check.verdict is Verdict.PASSED, check


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_shorter_stack_is_the_parent_with_zeroed_blocks_wherever_norms_stand(cell):
    """Blocks whose norms stand behind the sum (bert) are left out of the reference too."""
    found = parent(*cell)
    model = made(found, Target(**HALF, layers=2))
    check = examined(found, model)
    assert check.verdict is Verdict.PASSED, check
    softmax = next(node for node in model.graph.nodes if node.op == "Softmax")
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    assert examined(found, model).verdict is Verdict.FAILED


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("column", ["torchscript", "fused-torchscript", "ort-extended"])
def test_a_block_whose_norm_is_behind_the_sum_is_left_out_of_the_reference(column, block):
    found = zoo_parent("bert", column)
    plan = Plan(found.anatomy.fingerprint, {}, {found.anatomy.stacks[0].name: (block,)}, "none")
    check = examined(found, clone(found.model, found.anatomy, plan))
    assert check.verdict is Verdict.PASSED, check


def test_a_block_beside_half_of_another_is_not_compared():
    found = zoo_parent("bert", "fused-torchscript")
    stack = found.anatomy.stacks[0].name
    plan = Plan(found.anatomy.fingerprint, {}, {stack: (0,)}, "none", drop_attention={stack: (1,)})
    check = examined(found, clone(found.model, found.anatomy, plan))
    assert check.verdict is Verdict.NOT_APPLICABLE
    assert "hands the stream on changed" in check.detail


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_narrower_heads_are_the_parents_that_divide_by_their_own_width(cell):
    found = parent(*cell)
    model = made(found, Target(head_dim="50%", heads="50%"))
    check = examined(found, model)
    assert check.verdict is Verdict.PASSED, check
    softmax = next(node for node in model.graph.nodes if node.op == "Softmax")
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    assert examined(found, model).verdict is Verdict.FAILED


@pytest.mark.parametrize("column", ["fused-torchscript", "ort-extended", "float16"])
def test_narrower_heads_of_a_fused_attention_too(column):
    found = zoo_parent("gpt2", column)
    check = examined(found, made(found, Target(head_dim="50%")))
    assert check.verdict is Verdict.PASSED, check


def test_norms_of_heads_that_are_split_by_sizes_computed_are_over_the_kept_alone():
    found = zoo_parent("qwen3", "torchscript")
    check = examined(found, made(found, Target(head_dim="50%")))
    assert check.verdict is Verdict.PASSED, check


def test_caches_of_heads_of_which_a_part_turns_are_compared_as_they_were_cut():
    found = zoo_parent("phi", "cache-torchscript")
    check = examined(found, made(found, Target(head_dim="50%")))
    assert check.verdict is Verdict.PASSED, check
    takes = [np.array([1, 3, 4, 9, 11, 12])]  # of heads of 8
    assert list(oracle._of_a_head(takes, 8, 3)) == [(1, 3, 4)]


def test_an_attention_of_which_it_is_not_known_what_it_divides_by_is_not_compared():
    found = parent("gpt2", "torchscript")
    model = made(found, Target(head_dim="50%"))
    reference = found.model.copy()
    reference.graph.nodes[0].op = "OtherAttention"
    with pytest.raises(Ambiguous, match="OtherAttention"):
        follow(reference, model, claims.read(model), {})


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_permutation_equals_its_parent(cell, rng):
    found = parent(*cell)
    check = examined(found, found.cut({n: shuffled(rng, found.anatomy.groups[n].size) for n in found.groups()}))
    assert check.verdict is Verdict.PASSED, check


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_graph_that_computes_something_else_with_the_same_weights_is_found(cell):
    """What no comparison of weights sees: a node that goes, and one that does another thing."""
    found = parent(*cell)
    model = made(found, Target(**HALF))
    wrong = model.copy()
    softmax = next(node for node in wrong.graph.nodes if node.op == "Softmax")
    softmax.op = "Sigmoid"
    softmax.attrs.clear()
    assert examined(found, wrong).verdict is Verdict.FAILED
    wrong = model.copy()
    sums = [n for n in wrong.graph.nodes if n.op == "Add" and not any(isinstance(t, gs.Constant) for t in n.inputs)]
    sums[-1].op = "Sub"
    assert examined(found, wrong).verdict is Verdict.FAILED


def test_an_axis_of_heads_that_are_a_product_is_taken_as_the_plan_keeps_them():
    four, two = (0, 1, 2, 3), (1,)  # groups of heads, and of each group's two heads one
    assert set(oracle._fitting({four, two}, 8, 4)) == {four, (4, 5, 6, 7), (1, 3, 5, 7)}
    assert (2, 3, 6, 7) in set(oracle._fitting({(1, 3)}, 8, 4))  # two groups of four, each with both its heads
    assert set(oracle._fitting({(0, 2)}, 4, 2)) == {(0, 2)}
    assert not set(oracle._fitting({(0, 2)}, 4, 3))
