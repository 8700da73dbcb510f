"""Does the clone have something of every weight that its plan does not drop?

A weight that is missing counts as zero in the zeroed parent, as a dropped block's do: that a clone computes the same
does not say that it lacks no more than it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.claims import Claims
from graphclone.verification.report import Check
from graphclone.verification.weights import SHAPE_CONSTANT_LIMIT

Array = np.ndarray[Any, Any]

NAME = "no other weight is missing"
DROPS = ("drop_blocks", "drop_attention", "drop_feed_forward")


def examine(parent: Model, clone: Model, claims: Claims) -> Check:
    """Both models, and what the clone says of its initializers and of its plan's blocks."""
    if claims.own is None and any(getattr(claims.plan, field) for field in (*DROPS, "repeat_blocks")):
        return Check.skipped(NAME, "the clone does not say which weights its plan's blocks have, as those of before")
    slices = Counter(claim.parent for name, claim in claims.slices.items() if name in clone.constants())
    weights = sorted(_used(parent.graph) & {name for name, array in parent.constants().items() if _is_weight(array)})
    gone = {name for field in DROPS for _, names in _blocks(claims, field) for name in names}
    sizes = _Sizes(parent, clone, claims)
    faults = [*_unrecorded(claims), *_still_there(claims, slices), *_too_few(claims, slices, frozenset(weights))]
    faults += [
        f"{name} of the parent: the clone has nothing of it, and the plan drops no block that it is in"
        for name in weights
        if not slices[name] and name not in gone and name not in claims.slices and not sizes.take_place_of(name)
    ]
    return Check.of(NAME, faults, f"{len(weights)} weights of the parent, {len(gone.intersection(weights))} dropped")


class _Sizes:
    """The clone's constants that encode a size: the root of a head's width may be a vector in the parent."""

    def __init__(self, parent: Model, clone: Model, claims: Claims) -> None:
        self.parent = parent.graph.tensors()
        self.twins = {t.name: node for node in clone.graph.nodes for t in node.outputs if t.name}
        self.names = {name for name, claim in claims.slices.items() if claim.shape_constant}

    def take_place_of(self, name: str) -> bool:
        """Does one of them stand where the parent reads this constant?"""
        for reader in self.parent[name].outputs:
            twin = next((self.twins[t.name] for t in reader.outputs if t.name in self.twins), None)
            if twin is not None and any(
                mine.name == name and theirs.name in self.names
                for mine, theirs in zip(reader.inputs, twin.inputs, strict=False)
            ):
                return True
        return False


def _is_weight(array: Array) -> bool:
    """More than a number; of integers those of 8 bits, which are quantised: wider ones count and index."""
    if array.dtype.kind in "fV":
        return array.size > 1
    return array.dtype.itemsize == 1 and array.dtype.kind in "iu" and array.size > SHAPE_CONSTANT_LIMIT


def _blocks(claims: Claims, field: str) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """((stack, block), the weights that it alone reads) of each block recorded."""
    for stack, blocks in (claims.own or {}).get(field, {}).items():
        for block, names in blocks.items():
            yield (stack, block), names


def _unrecorded(claims: Claims) -> Iterator[str]:
    """A record of other blocks than the plan's would excuse what the plan does not drop."""
    gone = {(stack, str(k)) for stack, chosen in claims.plan.drop_blocks.items() for k in chosen}
    for field in (*DROPS, "repeat_blocks") if claims.own is not None else ():
        planned = {(stack, str(k)) for stack, chosen in getattr(claims.plan, field).items() for k in chosen}
        told = {block for block, _ in _blocks(claims, field)}
        for stack, block in sorted(told ^ (planned if field == "drop_blocks" else planned - gone)):
            yield f"{field} of block {block} of {stack} is in the plan or in the record alone"


def _still_there(claims: Claims, slices: Mapping[str | None, int]) -> Iterator[str]:
    for field in DROPS:
        for (stack, block), names in _blocks(claims, field):
            if left := [name for name in names if slices[name]]:
                yield f"{field} of block {block} of {stack}, and {left[0]} is still there"


def _too_few(claims: Claims, slices: Mapping[str | None, int], weights: frozenset[str]) -> Iterator[str]:
    """A repeated block has its weights once more each time."""
    for (stack, block), names in _blocks(claims, "repeat_blocks"):
        times = 1 + claims.plan.repeat_blocks.get(stack, ()).count(int(block))
        if short := [name for name in names if name in weights and 0 < slices[name] < times]:
            yield f"block {block} of {stack} stands {times} times in the plan, {short[0]} {slices[short[0]]} times"


def _used(graph: gs.Graph) -> set[str]:
    """Names of all that an output depends on, in the bodies of branches too."""
    found: set[str] = set()
    waiting: list[gs.Tensor] = list(graph.outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.name in found:
            continue
        found.add(tensor.name)
        for node in tensor.inputs:
            waiting += _read(node)
    return found


def _read(node: gs.Node) -> Iterator[gs.Tensor]:
    yield from (tensor for tensor in node.inputs if tensor.name)
    for body in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
        yield from body.outputs
        for inner in body.nodes:
            yield from _read(inner)
