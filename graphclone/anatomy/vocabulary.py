"""Finds the vocabulary: embedding rows that token ids look up, and outputs as wide as they are (a head, its bias).

Ids are integers, so the trace meets the vocabulary only where it is stored. Here the ids are followed instead: through
what hands them on, to the tables that they index and to the constants that they are compared with (a padding id that
makes positions or masks). Kept tokens stay in their order, so larger and smaller ids stay so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.naming import Names
from graphclone.anatomy.parts import Anatomy
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.feeds import LOOKUPS, inputs
from graphclone.graph import Model

KIND = "vocabulary"
TRIMMED = "is the vocabulary, which only a list of tokens trims (--vocab)"

# operators whose outputs hold the ids of these inputs, in whatever order or selection
CARRIERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand"), (0,)),
    **dict.fromkeys(("Slice", "Split", "Tile", "Gather", "GatherElements", "GatherND", "ReduceMax", "ReduceMin"), (0,)),
    "Where": (1, 2),
}
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
ORDER_ALONE = ("Shape", "Size", "ArgMax", "ArgMin")  # what they say of ids is the same of ids counted anew


@dataclass(frozen=True)
class Named:
    """A constant that stands for token ids: the node that reads it (its first output's name), and as which input."""

    node: str
    input: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """size: rows. groups: of neurons that are the vocabulary, all cut alike. named: ids that the graph itself names."""

    size: int
    groups: tuple[str, ...]
    named: tuple[Named, ...]

    @property
    def needed(self) -> tuple[int, ...]:
        """Ids that have to stay, ascending."""
        return tuple(sorted({i for named in self.named for i in named.ids if 0 <= i < self.size}))


def find(model: Model, anatomy: Anatomy) -> Vocabulary:
    """The vocabulary of a parent. Raises UnsupportedGraph, with the reason, where it has none that may be trimmed."""
    groups = [g for g in anatomy.groups.values() if g.kind == KIND]
    where = model.path or "the model"
    if not groups:
        raise UnsupportedGraph(f"{where}: no token ids look rows of a table up: there is no vocabulary to trim")
    for group in groups:
        if group.pinned != TRIMMED:
            raise UnsupportedGraph(f"{where}: the vocabulary of {group.size} cannot be trimmed: {group.pinned}")
    uses = _Uses.of(model)
    return Vocabulary(groups[0].size, tuple(sorted(g.name for g in groups)), tuple(uses.named))


def mark(found: Grouping, model: Model, made: Sequence[Projection], taken: set[str]) -> None:
    """Name the groups that are the vocabulary, and say of each whether a list of tokens may trim it, or why not."""
    uses = _Uses.of(model)
    rows = _looked_up(found, uses)
    if not rows:
        return
    heads = [g for g in found.groups if g.outputs and not g.name and g not in rows and not g.inputs]
    sizes = {g.size for g in rows}
    groups = [*rows, *(g for g in heads if g.size in sizes)]
    reasons: list[tuple[Group | None, str]] = [*_reasons(found, uses, groups, made)]
    if uses.refused:
        reasons.append((None, uses.refused))
    if len(sizes) > 1:
        reasons.append((None, f"has several sizes ({', '.join(map(str, sorted(sizes)))})"))
    widths = {g.size for g in found.groups if g.kind == "residual"}
    if any(g.size in widths for g in groups if g in heads):
        reasons.append((None, "is as wide as the residual stream: an output of that width may be either"))
    near = (g for g in heads if g.size not in sizes | widths and 2 * g.size > max(sizes))
    reasons += [(None, f"may be what output {g.outputs[0]}, {g.size} wide, counts in another way") for g in near]
    for group in groups:
        if not group.name:
            said = next((reason for which, reason in reasons if which is None or which is group), TRIMMED)
            Names("", None, taken).give(group, KIND)
            group.pinned = said


def _looked_up(found: Grouping, uses: _Uses) -> list[Group]:
    rows: list[Group] = []
    for node, table in uses.lookups:
        value = found.trace.input(node, table)
        if value is not None:
            axis = int(node.attrs.get("axis", 0)) % len(value.shape) if node.op == "Gather" else 0
            here = found.on(value.axis(axis))
            if not here and value.shape[axis] > 1:  # flags and kinds of tokens: wide integers hold no neurons
                uses.refused = (
                    f"has a row in a table of integers {list(value.shape)} too, which is not trimmed, "
                    f"by {describe(node)}: store it as floats"
                )
            rows += [g for g in here if g not in rows]
    return rows


def _reasons(
    found: Grouping, uses: _Uses, groups: Sequence[Group], made: Sequence[Projection]
) -> Iterator[tuple[Group, str]]:
    """Groups that mix with more than one token's row, or with other neurons, and why they cannot be trimmed."""
    allowed = {f"looked up by {describe(node)}" for node, _ in uses.lookups}
    for pin in found.trace.pins:
        if pin.reason not in allowed:
            yield from ((group, f"is {pin.reason}") for group in found.on((pin.ids,)) if group in groups)
    for note in found.trace.notes:
        if note.kind in ("reduction", "norm", "softmax") and note.inputs:
            for group in found.on(note.inputs[0].axis(note.axis)):
                if group in groups:
                    yield group, f"is summed over by {describe(note.node)}"
    for p in made:
        yield from ((group, f"is read by {describe(p.node)}") for group in p.reads if group in groups)
    for group in groups:
        if group.inputs:
            yield group, f"comes from input {group.inputs[0]}"
        if group.name:
            yield group, f"is also {group.name}"


@dataclass
class _Uses:
    """Where token ids go. lookups: nodes that index with them, and which input is the table."""

    lookups: list[tuple[gs.Node, int]]
    named: list[Named]
    refused: str | None = None

    @classmethod
    def of(cls, model: Model) -> _Uses:
        uses = cls([], [])
        roles = {name: given.role.name for name, given in inputs(model).items()}
        waiting = [t for t in model.graph.inputs if roles[t.name] == "tokens"]
        ids = {t.name for t in waiting}
        around = {id(node) for node in model.graph.nodes}
        while waiting:
            tensor = waiting.pop()
            for node in tensor.outputs:
                if id(node) not in around:  # in the body of a branch, which _constants refuses
                    continue
                for place in (k for k, t in enumerate(node.inputs) if t is tensor):
                    if uses._met(node, place):
                        new = [t for t in node.outputs if t.name and t.name not in ids]
                        ids.update(t.name for t in new)
                        waiting += new
        uses._constants(model, ids)
        return uses

    def _met(self, node: gs.Node, place: int) -> bool:
        """Note one use; True where the node's outputs are ids again."""
        table = LOOKUPS.get((node.domain or "", node.op), {}).get(place)
        if table is not None:
            if (node, table) not in self.lookups:
                self.lookups.append((node, table))
            return False
        if node.domain not in ("", None):
            self.refused = f"is indexed by ids that {describe(node)} reads"
        if place in CARRIERS.get(node.op, ()) or node.op == "Concat":
            as_truth = node.op == "Cast" and node.attrs.get("to") == onnx.TensorProto.BOOL
            if not as_truth:
                return True
        if node.op not in (*COMPARISONS, *ORDER_ALONE):
            self.refused = f"is indexed by ids that {describe(node)} computes with"
        return False

    def _constants(self, model: Model, ids: set[str]) -> None:
        """Constants beside ids: compared with them, or put in their place."""
        for node in model.graph.nodes:
            if any(name in ids for name in _computed_with(node)):
                self.refused = f"is indexed by ids that the body of {describe(node)} reads"
            places = range(len(node.inputs)) if node.op in (*COMPARISONS, "Concat") else CARRIERS.get(node.op, ())
            beside = node.op in (*COMPARISONS, "Concat", "Where")
            if not beside or not any(node.inputs[k].name in ids for k in places):
                continue
            for place in places:
                tensor = node.inputs[place]
                if isinstance(tensor, gs.Constant):
                    held = np.asarray(tensor.values).reshape(-1).tolist()
                    self.named.append(Named(node_key(node), place, tuple(int(i) for i in held)))
                elif tensor.name not in ids:
                    self.refused = f"is indexed by ids that {describe(node)} holds against {tensor.name!r}"


def _computed_with(node: gs.Node) -> Iterator[str]:
    """What the bodies of an If, Loop or Scan read from around them otherwise than for its shape."""
    for body in (a for a in node.attrs.values() if isinstance(a, gs.Graph)):
        yield from (t.name for t in body.outputs)
        for inner in body.nodes:
            yield from () if inner.op in ORDER_ALONE else (t.name for t in inner.inputs)
            yield from _computed_with(inner)


__all__ = ["KIND", "TRIMMED", "Named", "Vocabulary", "find", "mark"]
