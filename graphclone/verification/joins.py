"""Blocks that hand the stream on changed whatever their weights, as their norms stand behind the sum.

Zero weights do not silence such a block: where it was dropped, the zeroed parent reads what stood before it, as the
clone does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.forms import name_of

DIGIT = re.compile(r"\d")
HANDS_ON = ("Add", "Identity", "Cast", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")


@dataclass(frozen=True)
class Join:
    """Where the clone reads one value for another of the parent's. ``node``: the reader, by its first output; ``place``
    None: it hands the value on alone, as it makes an output of the graph."""

    node: str
    place: int | None
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.old} is no sum with {self.new}"


def joins(parent: Model, clone: Model) -> Iterator[Join]:
    """From where that other is not a sum with it."""
    makers = {t.name: node for node in parent.graph.nodes for t in node.outputs if t.name}
    before = parent.graph.tensors()
    numbered = _numbered(parent)
    for node in clone.graph.nodes:
        if any(t.name in numbered for t in node.outputs):
            continue
        twin = next((makers[t.name] for t in node.outputs if t.name in makers), None)
        if twin is not None and node.op == "Identity" != twin.op and node.inputs[0].name in before:
            if not _sum_with(twin.outputs[0], node.inputs[0].name):
                yield Join(name_of(twin), None, twin.outputs[0].name, node.inputs[0].name)
            continue
        for place, (old, new) in enumerate(zip(twin.inputs if twin else (), node.inputs, strict=False)):
            known = isinstance(new, gs.Variable) and isinstance(old, gs.Variable) and new.name in before
            known = known and not {old.name, str(new.name)} <= numbered
            if known and new.name != old.name and _is_float(old) and not _sum_with(old, new.name):
                assert twin is not None
                yield Join(name_of(twin), place, old.name, new.name)


def counted_anew(parent: Model, clone: Model) -> bool:
    """May inputs and outputs have other names, as a dropped block had some of its own (a cache)?"""
    before, after = parent.graph, clone.graph
    return (len(before.inputs), len(before.outputs)) != (len(after.inputs), len(after.outputs))


def join(reference: Model, found: Iterable[Join]) -> None:
    """Read what stood before the blocks that are gone, in place."""
    nodes = {name_of(node): node for node in reference.graph.nodes}
    tensors = reference.graph.tensors()
    for made in found:
        node, new = nodes[made.node], tensors[made.new]
        if made.place is None:
            node.op, node.domain, node.attrs, node.inputs = "Identity", "", {}, [new]
        else:
            node.inputs[made.place] = new


def _numbered(parent: Model) -> set[str]:
    """Outputs that carry a block's number, beside plain ones: caches, which are other blocks' in the clone."""
    numbered = {t.name for t in parent.graph.outputs if DIGIT.search(t.name)}
    return numbered if len(numbered) < len(parent.graph.outputs) else set()


def _is_float(tensor: gs.Variable) -> bool:
    return tensor.dtype is None or np.dtype(tensor.dtype).kind in "fV"


def _sum_with(tensor: gs.Tensor, wanted: str) -> bool:
    """Is a value the sum of another and more?"""
    waiting, seen = [tensor], {tensor.name}
    while waiting:
        held = waiting.pop()
        if held.name == wanted:
            return True
        maker = held.inputs[0] if held.inputs else None
        if maker is None or maker.op not in HANDS_ON or (maker.op.startswith("Skip") and held is maker.outputs[0]):
            continue
        fresh = [t for t in maker.inputs if t.name not in seen]
        seen |= {t.name for t in fresh}
        waiting += fresh
    return False
