"""A clone that lacks more than its plan drops is found, although what it lacks counts as zero everywhere else."""

from __future__ import annotations

import dataclasses
import json

import pytest

from graphclone import graph, pipeline
from graphclone.plan import Plan
from graphclone.surgery import drop_blocks as dropping
from graphclone.surgery import repeat_blocks as repeating
from graphclone.verification import Verdict, claims, missing, verify
from tests import hand_made
from tests.hand_made import transformer


@pytest.fixture(scope="module")
def parent():
    model = graph.from_proto(transformer(hand_made.attention, hand_made.feed_forward))
    return model, pipeline.inspect(model)


def cloned(parent, **fields):
    model, anatomy = parent
    stack = anatomy.stacks[0].name
    keep = {name: tuple(range(group.size // 2)) for name, group in anatomy.groups.items() if group.kind == "ffn"}
    plan = Plan(anatomy.fingerprint, keep, method="none", **{name: {stack: blocks} for name, blocks in fields.items()})
    return pipeline.clone(model, plan, anatomy=anatomy)


def examined(parent, clone):
    return missing.examine(parent[0], clone, claims.read(clone))


PLANS = [{}, {"drop_blocks": (1,)}, {"drop_attention": (0, 1)}, {"drop_feed_forward": (2,)}, {"repeat_blocks": (0, 0)}]


@pytest.mark.parametrize("fields", PLANS, ids=str)
def test_a_right_clone_lacks_nothing(parent, fields):
    clone = cloned(parent, **fields)
    check = examined(parent, clone)
    assert check.verdict is Verdict.PASSED, check
    assert verify(parent[0], clone).passed


def more(chosen):
    """The blocks that the plan drops, and the one before them."""

    def wrong(stack, blocks, plan):
        found = chosen(stack, blocks, plan)
        return [b for b in blocks if b in found or b.index + 1 == found[0].index] if found else found

    return wrong


def test_a_block_more_than_planned(parent, monkeypatch):
    monkeypatch.setattr(dropping, "_chosen", more(dropping._chosen))
    clone = cloned(parent, drop_blocks=(1,))
    (failed,) = verify(parent[0], clone).failures  # everything else about it is as in a clone without two blocks
    assert failed.name == missing.NAME
    assert failed.detail.startswith("0.attention.k of the parent: the clone has nothing of it")


def test_a_copy_fewer_than_planned(parent, monkeypatch):
    counted = repeating.Counter
    monkeypatch.setattr(repeating, "Counter", lambda blocks: counted(sorted(set(blocks))))
    check = examined(parent, cloned(parent, repeat_blocks=(0, 0)))
    assert check.verdict is Verdict.FAILED
    assert "stands 3 times in the plan" in check.detail


def test_a_block_that_should_be_gone(parent):
    clone = cloned(parent)
    other = cloned(parent, drop_blocks=(1,))
    clone.metadata |= {key: other.metadata[key] for key in ("graphclone.plan", "graphclone.own")}
    check = examined(parent, clone)
    assert check.verdict is Verdict.FAILED
    assert "drop_blocks of block 1 of blocks, and 1.attention.k is still there" in check.detail


def test_a_record_of_other_blocks_than_the_plans(parent):
    clone = cloned(parent, drop_blocks=(1,))
    clone.metadata["graphclone.own"] = json.dumps({"drop_blocks": {"blocks": {"0": [], "1": []}}})
    assert "block 0 of blocks is in the plan or in the record alone" in examined(parent, clone).detail


def test_clones_of_before_do_not_say(parent):
    clone = cloned(parent, drop_blocks=(1,))
    del clone.metadata["graphclone.own"]
    assert examined(parent, clone).verdict is Verdict.NOT_APPLICABLE
    plain = cloned(parent)
    del plain.metadata["graphclone.own"]
    assert examined(parent, plain).verdict is Verdict.PASSED


def test_blocks_that_share_their_weights_with_each_other_alone(monkeypatch):
    def pairs(part):
        """Blocks 0 and 1 read the same weights."""
        return lambda made, x, stem: part(made, x, stem.replace("1.", "0."))

    model = graph.from_proto(transformer(pairs(hand_made.attention), pairs(hand_made.feed_forward)))
    parent = model, pipeline.inspect(model)
    assert "1.attention.k" not in model.constants()
    for dropped in ((0, 1), (1,)):
        clone = cloned(parent, drop_blocks=dropped)
        assert examined(parent, clone).verdict is Verdict.PASSED


def test_malformed_records_are_told(parent):
    clone = cloned(parent, drop_blocks=(1,))
    clone.metadata["graphclone.own"] = json.dumps({"drop_blocks": {"blocks": {"one": []}}})
    report = verify(parent[0], clone)
    assert [check.name for check in report.failures] == ["metadata"]
    assert dataclasses.asdict(report.failures[0])["detail"].count("malformed") == 1
