"""A size is met by every group that has it, and a group keeps one number of neurons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphclone import graph, pipeline
from graphclone.anatomy.parts import Anatomy, Block
from graphclone.errors import InvalidTarget
from graphclone.planner import Target, plan
from tests.hand_made import HIDDEN, transformer


def anatomy() -> Anatomy:
    return pipeline.inspect(graph.from_proto(transformer()))


def with_blocks(found: Anatomy, change) -> Anatomy:
    (stack,) = found.stacks
    return replace(found, stacks=(replace(stack, blocks=tuple(change(block) for block in stack.blocks)),))


def test_a_group_of_two_parts_keeps_one_number_of_neurons():
    def sharing(block: Block) -> Block:
        return replace(block, feed_forward=(replace(block.feed_forward[0], group="residual"),))

    shared = with_blocks(anatomy(), sharing)
    for ffn in (10, HIDDEN):
        with pytest.raises(
            InvalidTarget, match=f"residual cannot keep {ffn} neurons: another part of the target keeps 8"
        ):
            plan(shared, None, Target(hidden=8, ffn=ffn), importance="first", method="none")
    agreed = plan(shared, None, Target(hidden=8, ffn=8), importance="first", method="none")
    assert len(agreed.keep["residual"]) == 8
