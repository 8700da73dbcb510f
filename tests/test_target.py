"""What a user may ask for, block by block, and what is no such thing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphclone.errors import InvalidTarget
from graphclone.plan import Plan
from graphclone.planner import plan
from graphclone.target import Target
from tests.test_planner import BLOCKS, anatomy_of


def planned(target, **held):
    return plan(anatomy_of(**held), None, target, importance="first")


def kept(made, kind):
    """Block -> how many of its neurons are kept."""
    return {int(n.split(".")[1]): len(k) for n, k in made.keep.items() if n.endswith(kind)}


def test_each_block_has_the_size_that_it_is_given():
    assert kept(planned(Target(ffn="8,9,10,50%,12")), ".ffn") == {0: 8, 1: 9, 2: 10, 3: 20, 4: 12}
    assert kept(planned(Target(ffn="0-1:8,4:25%")), ".ffn") == {0: 8, 1: 8, 4: 10}
    made = planned(Target(heads="0:6,1-2:3"))
    assert kept(made, ".kv_head") == {0: 2, 1: 1, 2: 1}
    assert made.target == {"heads": "0:6,1-2:3"}
    assert planned(Target(heads="0:6,1-2:3", kv_heads="0:2,1-2:1")).target == {
        "heads": "0:6,1-2:3",
        "kv_heads": "0:2,1-2:1",
    }


def test_blocks_are_named_instead_of_counted():
    made = planned(Target(keep_blocks="0-1,4", ffn=8))
    assert made.drop_blocks == {"blocks": (2, 3)}
    assert kept(made, ".ffn") == {0: 8, 1: 8, 4: 8}
    assert planned(Target(keep_blocks=(4, 0))).drop_blocks == {"blocks": (1, 2, 3)}


def test_one_block_is_a_number_as_well():
    assert planned(Target(keep_blocks=0)).drop_blocks == {"blocks": (1, 2, 3, 4)}
    assert planned(Target(drop_ffn=1)).drop_feed_forward == {"blocks": (1,)}


def test_a_part_that_is_dropped_is_not_cut():
    made = planned(Target(drop_attention="1", drop_ffn="0,3-4", heads=3, ffn=8))
    assert (made.drop_attention, made.drop_feed_forward) == ({"blocks": (1,)}, {"blocks": (0, 3, 4)})
    assert kept(made, ".ffn") == {1: 8, 2: 8}
    assert sorted(kept(made, ".kv_head")) == [0, 2, 3, 4]
    assert Plan.from_json(made.to_json()) == made


REFUSED = {
    "too few sizes": (Target(ffn="8,9"), "ffn: 2 sizes for a stack of 5 blocks"),
    "a block that is not there": (Target(ffn="3-7:8"), "ffn: block 5 for a stack of 5 blocks"),
    "a list for the stream": (Target(hidden="8,9"), "hidden '8,9': one number or share for all"),
    "half a list": (Target(ffn="0:8,9"), "either a size a block"),
    "no number in it": (Target(ffn="8,x,8,8,8"), "ffn 'x' is neither a number nor a percentage"),
    "nothing left": (Target(ffn="8,0,8,8,8"), "ffn 0: a clone has at least 1"),
    "larger in one block": (Target(ffn="2:41"), "blocks.2.ffn has 40"),
    "no list of blocks": (Target(keep_blocks="0-"), "keep_blocks '0-' is no list of blocks"),
    "backwards": (Target(keep_blocks="3-1"), "is no list of blocks"),
    "kept and not there": (Target(keep_blocks="0,5"), "keep_blocks 5: blocks has 5 blocks, numbered from 0"),
    "both": (Target(keep_blocks="0", layers=2), "give one of them"),
    "blocks without end": (
        Target(keep_blocks="0-99999999999"),
        "keep_blocks 0-99999999999: no model has so many blocks",
    ),
    "a block of many digits": (Target(drop_ffn="1" * 5000), "no model has so many blocks"),
    "sizes of blocks without end": (Target(ffn="0-99999999999:8"), "ffn 0-99999999999: no model has so many blocks"),
    "deeper, of as many": (Target(layers=5, deeper=True), "deeper: give more layers than the parent has"),
    "deeper, of no layers": (Target(ffn=8, deeper=True), "deeper: give more layers than the parent has"),
    "deeper without end": (Target(layers=2_000_000_000, deeper=True), "layers 2000000000: no model has so many blocks"),
    "a share with an exponent": (Target(hidden="1e999999999%"), "is neither a number nor a percentage"),
    "a share of a share": (Target(hidden="1/2%"), "is neither a number nor a percentage"),
    "less than nothing": (Target(hidden="-5%"), "hidden -5%: a clone has at least 1"),
    "dropped and not there": (Target(drop_ffn="5"), "drop_ffn 5: blocks has 5 blocks"),
    "of a block that goes": (Target(drop_ffn="1", keep_blocks="0"), "drop_ffn 1"),
    "negative": (Target(drop_ffn=(-1,)), "numbered from 0"),
    "none": (Target(keep_blocks=()), "name at least one block"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said_in_one_line(case):
    target, said = REFUSED[case]
    with pytest.raises(InvalidTarget) as caught:
        planned(target)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_fits_its_own_stack_alone():
    anatomy = anatomy_of()
    (stack,) = anatomy.stacks
    short = replace(stack, name="short", blocks=stack.blocks[:2])
    with pytest.raises(InvalidTarget, match="ffn: 5 sizes for a stack of 2 blocks"):
        plan(replace(anatomy, stacks=(stack, short)), None, Target(ffn="8,8,8,8,8"), importance="first")
    assert len(stack.blocks) == BLOCKS
