"""Inputs and outputs that carry a block's number (a KV cache) are counted anew when blocks are gone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy
from graphclone.plan import Plan

NUMBER = re.compile(r"\d+")


def renumber(graph: gs.Graph, parent: gs.Graph, anatomy: Anatomy, plan: Plan) -> None:
    """Rename in place: past_key_values.7.key becomes past_key_values.3.key where four blocks before it are dropped.

    A number counts blocks where the parent has the same name with every block's number, and no other.
    """
    for stack in anatomy.stacks:
        dropped = set(plan.drop_blocks.get(stack.name, ()))
        kept = [b.index for b in stack.blocks if b.index not in dropped]
        places = {old: new for new, old in enumerate(kept)}
        if not dropped:
            continue
        for tensors, before in ((graph.inputs, parent.inputs), (graph.outputs, parent.outputs)):
            _rename(tensors, {t.name for t in before}, len(stack.blocks), places)


def _rename(tensors: Sequence[gs.Tensor], before: set[str], blocks: int, places: dict[int, int]) -> None:
    for tensor in tensors:
        for number in NUMBER.finditer(tensor.name):
            head, tail = tensor.name[: number.start()], tensor.name[number.end() :]
            counted = {
                int(m[1]) for n in before if (m := re.fullmatch(re.escape(head) + r"(\d+)" + re.escape(tail), n))
            }
            if counted == set(range(blocks)) and blocks > 1:
                tensor.name = f"{head}{places[int(number[0])]}{tail}"
                break
