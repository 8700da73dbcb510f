"""How many numbers a clone of some shape has, without making it: every axis counts the neurons that stay.

Exact: ``graphclone plan`` says what ``clone`` then meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.describe import describe, examine
from graphclone.anatomy.parameters import trained
from graphclone.anatomy.parts import Anatomy, AxisRef
from graphclone.anatomy.trace import node_key
from graphclone.graph import Model
from graphclone.plan import Plan

Part = tuple[int, tuple[str, ...]]  # positions of an axis, and the groups that each of them is a neuron of


@dataclass(frozen=True)
class Weight:
    """A trained initializer. homes: the blocks (stack, index) that read it; None: read outside of all. tied: it
    is looked up in, and a product's weight."""

    name: str
    itemsize: int
    shape: tuple[int, ...]
    parts: tuple[tuple[Part, ...], ...]  # by axis
    homes: frozenset[tuple[str, int]] | None
    tied: bool = False

    def lives(self, plan_drops: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether anything that reads it stays."""
        if self.homes is None:
            return True
        return any(index not in plan_drops.get(stack, ()) for stack, index in self.homes)


@dataclass(frozen=True)
class Census:
    """Every trained weight of a parent."""

    anatomy: Anatomy
    weights: tuple[Weight, ...]

    @classmethod
    def of(cls, model: Model, anatomy: Anatomy) -> Census:
        """Trace the model once more, for what the anatomy does not tell."""
        found = examine(model)
        describe(found, model)
        homes, tied = _homes(model, anatomy), _tied(model, anatomy)
        return cls(
            anatomy,
            tuple(
                Weight(
                    name,
                    array.dtype.itemsize,
                    tuple(array.shape),
                    tuple(tuple(_parts(anatomy, name, axis, size)) for axis, size in enumerate(array.shape)),
                    homes.get(name),
                    name in tied,
                )
                for name, array in trained(found).items()
            ),
        )

    def parameters(self, plan: Plan) -> int | None:
        """Of the clone that a plan makes; None where it takes blocks apart, or puts some in twice."""
        if any(getattr(plan, name, None) for name in ("drop_attention", "drop_feed_forward", "repeat_blocks")):
            return None
        return sum(self._size(weight, plan) for weight in self.weights) + self.untied(plan)[0]

    def untied(self, plan: Plan) -> tuple[int, int]:
        """Numbers, and their bytes, that a clone holds once more than its parent: of heads that are no longer the
        embedding, as pca turns the two by different gains."""
        narrower = any(len(plan.keep.get(s.residual, range(s.hidden))) < s.hidden for s in self.anatomy.stacks)
        if not narrower or not unties(plan.method):
            return 0, 0
        sizes = [(self._size(weight, plan), weight.itemsize) for weight in self.weights if weight.tied]
        return sum(size for size, _ in sizes), sum(size * itemsize for size, itemsize in sizes)

    def _size(self, weight: Weight, plan: Plan) -> int:
        if not weight.lives(plan.drop_blocks):
            return 0
        kept = {name: len(neurons) for name, neurons in plan.keep.items()}
        sizes = [_kept(self.anatomy, parts, kept) for parts in weight.parts]
        return math.prod(round(size) for size in sizes)


def unties(method: str) -> bool:
    """Whether a method makes heads tied to the embedding weights of their own, where the stream gets narrower."""
    return "pca" in method.split("+")


def _kept(anatomy: Anatomy, parts: tuple[Part, ...], kept: Mapping[str, int]) -> float:
    """Positions of an axis that stay: of those that are neurons of several groups, all combinations are there."""
    total = 0.0
    for count, groups in parts:
        share = 1.0
        for name in groups:
            share *= kept.get(name, anatomy.groups[name].size) / anatomy.groups[name].size
        total += count * share
    return total


def _parts(anatomy: Anatomy, name: str, axis: int, size: int) -> Iterator[Part]:
    factors = anatomy.axes.get(AxisRef(name, axis), ())
    if not factors:
        yield size, ()
        return
    belongs = np.stack([members >= 0 for _, members in factors])
    patterns, counts = np.unique(belongs, axis=1, return_counts=True)
    for pattern, count in zip(patterns.T, counts, strict=True):
        yield int(count), tuple(factors[k][0] for k in np.flatnonzero(pattern))


def _tied(model: Model, anatomy: Anatomy) -> set[str]:
    multiplied = {linear.weight for linear in anatomy.linears}
    return {n.inputs[0].name for n in model.graph.nodes if n.op == "Gather" and n.inputs[0].name in multiplied}


def _homes(model: Model, anatomy: Anatomy) -> dict[str, frozenset[tuple[str, int]]]:
    """Weights that blocks alone read, and which."""
    blocks = [(stack.name, block) for stack in anatomy.stacks for block in stack.blocks]
    place = {key: (name, block.index) for name, block in blocks for key in block.nodes}
    found: dict[str, set[tuple[str, int] | None]] = {}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                found.setdefault(tensor.name, set()).add(place.get(node_key(node)))
    # a weight that passes a Transpose outside all blocks is read where the product is: its linears know
    for linear in anatomy.linears:
        if linear.node in place and None in found.get(linear.weight, set()):
            readers = [p.node for p in anatomy.linears if p.weight == linear.weight]
            found[linear.weight] = {place[node] for node in readers if node in place}
    return {name: frozenset(h for h in homes if h) for name, homes in found.items() if None not in homes}
