"""Plans that surgery refuses: one line that says what and what to do, and no clone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphclone.errors import InvalidTarget
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from tests.surgery.parents import parent


@pytest.fixture
def found():
    return parent("llama", "torchscript")


def refused(found, match, **changes):
    plan = replace(found.plan({}), **changes)
    with pytest.raises(InvalidTarget, match=match) as caught:
        clone(found.model, found.anatomy, plan)
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_parent(found):
    refused(found, r"plan is for parent 0{12}, this one is [0-9a-f]{12}: plan again", parent="0" * 64)


def test_an_anatomy_of_another_parent(found):
    other = parent("gpt2", "torchscript")
    with pytest.raises(InvalidTarget, match="plan again"):
        clone(found.model, other.anatomy, other.plan({}))


def test_a_group_that_the_parent_does_not_have(found):
    refused(found, "group blocks.7.ffn is not in this parent", keep={"blocks.7.ffn": (0, 1)})


def test_a_neuron_past_the_end(found):
    refused(found, "group blocks.0.ffn has 160 neurons, not 161", keep={"blocks.0.ffn": (0, 160)})


def positions():
    """GPT-2, and the group of its table of positions: all that Llama pins is a vocabulary, which may be trimmed."""
    found = parent("gpt2", "torchscript")
    return found, next(g for g in found.anatomy.groups.values() if g.pinned and g.kind == "other")


def test_a_pinned_group():
    found, group = positions()
    refused(found, f"group {group.name} cannot be cut: looked up", keep={group.name: (0, 1, 2)})


def test_a_pinned_group_is_not_reordered_either():
    """A position would look up another position's row."""
    found, group = positions()
    order = tuple(reversed(range(group.size)))
    refused(found, f"group {group.name} cannot be cut: looked up", keep={group.name: order})
    clone(found.model, found.anatomy, found.plan({group.name: range(group.size)}))


def test_blocks_that_are_not_there(found):
    refused(found, r"cannot drop blocks \[1, 5\] of the 3", drop_blocks={"blocks": (1, 5)})
    refused(found, r"cannot drop blocks \[-1\] of the 3", drop_blocks={"blocks": (-1,)})


def test_every_block(found):
    refused(found, r"cannot drop blocks \[0, 1, 2\] of the 3", drop_blocks={"blocks": (0, 1, 2)})


@pytest.mark.parametrize("what", ["drop_blocks", "drop_attention", "drop_feed_forward", "repeat_blocks"])
def test_a_stack_that_is_not_there(found, what):
    refused(found, "no stack named decoder; the parent has blocks", **{what: {"decoder": (0,)}})


@pytest.mark.parametrize("keep", [(), (1, 1), (-1, 0)], ids=["nothing", "twice", "negative"])
def test_a_plan_that_makes_no_sense_cannot_be_made(keep):
    with pytest.raises(InvalidTarget, match=r"group blocks\.0\.ffn keeps \d neurons with repeats, negatives or none"):
        Plan("0" * 64, {"blocks.0.ffn": keep})
