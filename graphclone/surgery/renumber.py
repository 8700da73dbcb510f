"""Renames inputs and outputs that carry a block's number (a KV cache) where blocks are gone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy
from graphclone.plan import Plan

NUMBER = re.compile(r"\d+")


def renumber(
    graph: gs.Graph, parent: gs.Graph, anatomy: Anatomy, plan: Plan, copies: Mapping[str, tuple[str, int]]
) -> None:
    """Rename in place: past_key_values.7.key becomes past_key_values.3.key where four blocks before it have none left.

    A number counts blocks where the parent has the same name with every block's number, and no other. ``copies``:
    inputs and outputs that are a block's once more -> (the one that they repeat, which copy).
    """
    measure_elsewhere(graph)
    for stack in anatomy.stacks:
        if any(chosen.get(stack.name) for chosen in (plan.drop_blocks, plan.drop_attention, plan.repeat_blocks)):
            for tensors, before in ((graph.inputs, parent.inputs), (graph.outputs, parent.outputs)):
                _rename(tensors, {t.name for t in before}, len(stack.blocks), copies)


def measure_elsewhere(graph: gs.Graph) -> None:
    """A cache that is left for its length alone, as its attention is gone, gives way to one that is still in use."""
    series: dict[tuple[str, str], list[gs.Tensor]] = {}
    for tensor in graph.inputs:
        series.setdefault((NUMBER.sub("#", tensor.name), str(tensor.shape)), []).append(tensor)
    several = [tensors for tensors in series.values() if len(tensors) > 1]
    ends_in_shape = _only_measured(graph) if several else set()
    for tensors in several:
        measured = [t for t in tensors if t.outputs and all(id(n) in ends_in_shape for n in t.outputs)]
        used = next((t for t in tensors if t.outputs and t not in measured), None)
        for tensor in measured if used is not None else ():
            for node in list(tensor.outputs):
                for place, given in enumerate(node.inputs):
                    if given is tensor:
                        node.inputs[place] = used
            graph.inputs.remove(tensor)


def _only_measured(graph: gs.Graph) -> set[int]:
    """Nodes of which all that they make ends in a Shape."""
    outputs = {id(t) for t in graph.outputs}
    found: set[int] = set()
    for node in reversed(graph.nodes):  # readers before makers
        readers = [n for t in node.outputs for n in t.outputs]
        unseen = not any(id(t) in outputs for t in node.outputs)
        if node.op == "Shape" or (unseen and readers and all(id(n) in found for n in readers)):
            found.add(id(node))
    return found


def _rename(tensors: Sequence[gs.Tensor], before: set[str], blocks: int, copies: Mapping[str, tuple[str, int]]) -> None:
    counted: dict[str, tuple[str, tuple[int, int], str]] = {}
    for tensor in tensors:
        original, copy = copies.get(tensor.name, (tensor.name, 0))
        place = _counting(original, before, blocks)
        if place is not None:
            counted[tensor.name] = (place[0], (place[1], copy), place[2])
    series: dict[tuple[str, str], list[tuple[int, int]]] = {}
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
