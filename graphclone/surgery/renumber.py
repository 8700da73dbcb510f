"""Inputs and outputs that carry a block's number (a KV cache) are counted anew when blocks are gone."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy
from graphclone.plan import Plan

NUMBER = re.compile(r"\d+")


def renumber(graph: gs.Graph, parent: gs.Graph, anatomy: Anatomy, plan: Plan) -> None:
    """Rename in place: past_key_values.7.key becomes past_key_values.3.key where four blocks before it have none left.

    A number counts blocks where the parent has the same name with every block's number, and no other.
    """
    for stack in anatomy.stacks:
        if plan.drop_blocks.get(stack.name) or plan.drop_attention.get(stack.name):
            for tensors, before in ((graph.inputs, parent.inputs), (graph.outputs, parent.outputs)):
                _rename(tensors, {t.name for t in before}, len(stack.blocks))


def _rename(tensors: Sequence[gs.Tensor], before: set[str], blocks: int) -> None:
    counted = {t.name: place for t in tensors if (place := _counting(t.name, before, blocks)) is not None}
    series: dict[tuple[str, str], list[int]] = {}
    for head, number, tail in counted.values():
        series.setdefault((head, tail), []).append(number)
    for tensor in tensors:
        if tensor.name in counted:
            head, number, tail = counted[tensor.name]
            tensor.name = f"{head}{sorted(series[head, tail]).index(number)}{tail}"


def _counting(name: str, before: set[str], blocks: int) -> tuple[str, int, str] | None:
    """A name around the number that counts blocks in it."""
    for number in NUMBER.finditer(name):
        head, tail = name[: number.start()], name[number.end() :]
        like = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))
        if blocks > 1 and {int(m[1]) for n in before if (m := like.fullmatch(n))} == set(range(blocks)):
            return head, int(number[0]), tail
    return None
