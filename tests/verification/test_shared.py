"""Pre-norm blocks that read the same weights: what a dropped block reads is zero for it, and for it alone."""

from __future__ import annotations

import pytest

from graphclone import graph, pipeline
from graphclone.plan import Plan
from graphclone.verification import Verdict, claims, oracle
from tests import hand_made
from tests.hand_made import transformer


def one(part):
    """The same names in every block, and so the same weights."""
    return lambda made, x, stem: part(made, x, stem.partition(".")[2])


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hand_made, "norm", one(hand_made.norm))
        model = graph.from_proto(transformer(one(hand_made.attention), one(hand_made.feed_forward)))
    assert len(model.constants()["attention.q"]) == hand_made.HIDDEN
    return model, pipeline.inspect(model)


DROPS = [{"drop_blocks": (1,)}, {"drop_blocks": (0, 2)}, {"drop_attention": (0, 1)}, {"drop_feed_forward": (2,)}]


def made(shared, drops):
    model, anatomy = shared
    keep = {name: tuple(range(group.size // 2)) for name, group in anatomy.groups.items() if group.kind == "ffn"}
    dropped = {name: {anatomy.stacks[0].name: blocks} for name, blocks in drops.items()}
    return pipeline.clone(model, Plan(anatomy.fingerprint, keep, method="none", **dropped), anatomy=anatomy)


def examined(shared, clone):
    return oracle.examine(shared[0], clone, claims.read(clone))


@pytest.mark.parametrize("drops", DROPS, ids=str)
def test_what_is_dropped_adds_nothing(shared, drops):
    check = examined(shared, made(shared, drops))
    assert check.verdict is Verdict.PASSED, check


@pytest.mark.parametrize("drops", DROPS, ids=str)
def test_a_clone_that_computes_something_else_is_found(shared, drops):
    clone = made(shared, drops)
    next(node for node in reversed(clone.graph.nodes) if node.op == "Relu").op = "Tanh"
    assert examined(shared, clone).verdict is Verdict.FAILED


def test_a_clone_that_lacks_more_than_was_dropped_is_found(shared):
    clone = made(shared, {"drop_blocks": (1,)})
    norm = next(node for node in clone.graph.nodes if node.op == "LayerNormalization")
    del norm.inputs[2]  # its bias, which others still read
    assert examined(shared, clone).verdict is Verdict.FAILED
