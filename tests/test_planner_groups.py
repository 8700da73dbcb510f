"""A size is met by every group that has it, and a group keeps one number of neurons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphclone import graph, pipeline
from graphclone.anatomy.parts import Anatomy, Block
from graphclone.errors import InvalidTarget
from graphclone.planner import Target, plan
from tests.hand_made import DIM, HIDDEN, transformer


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


@pytest.mark.parametrize(
    ("size", "pinned", "said"),
    [(DIM, "moves", "(moves) has 4 and can have 4;"), (6, None, "can have 2, 4;"), (0, None, "can have 4;")],
    ids=["pinned", "in no whole number", "the stream's own"],
)
def test_head_dim_is_met_by_the_values_too(size, pinned, said):
    def valued(block: Block) -> Block:
        (name, _), *_ = block.attention[0].v_dims
        dims = ((name, size),) if size else ()
        return replace(block, attention=(replace(block.attention[0], v_dims=dims, v_dim=size or HIDDEN),))

    found = with_blocks(anatomy(), valued)
    groups = {n: replace(g, size=size, pinned=pinned) if g.kind == "v_dim" else g for n, g in found.groups.items()}
    with pytest.raises(InvalidTarget) as caught:
        plan(replace(found, groups=groups), None, Target(head_dim=3), importance="first", method="none")
    assert said in str(caught.value)
