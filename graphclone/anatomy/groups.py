"""Groups neurons that are cut alike: those that stand in the same axes, in the same role, equally often."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.ids import ALWAYS, Factors, distinct
from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Slot, Trace

NONE = -1


@dataclass(eq=False)
class Group:
    """A group under construction; ``classes[n]`` is the id of neuron n."""

    classes: Ids
    slots: list[Slot]
    outputs: list[str] = field(default_factory=list)
    pinned: str | None = None
    name: str = ""
    kind: str = "other"
    block: int | None = None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(self.classes.size)

    @property
    def inputs(self) -> list[str]:
        """Graph inputs that carry the neurons."""
        return sorted({s.tensor for s in self.slots if s.kind == "input"})

    @property
    def tensors(self) -> set[str]:
        """Initializers, tables and inputs in which they stand."""
        return {s.tensor for s in self.slots}


@dataclass(eq=False)
class Grouping:
    """All groups of a trace, and for any id which group and which neuron it is."""

    trace: Trace
    groups: list[Group]
    group_of: Ids
    neuron_of: Ids
    _same: dict[bytes, Ids] = field(default_factory=dict)  # the residual's members stand along hundreds of axes

    @cached_property
    def of_value(self) -> dict[str, frozenset[int]]:
        """For every traced tensor, which groups (by position in ``groups``) it varies over."""
        found = {}
        for name, value in self.trace.values.items():
            factors = self.trace.ids.resolve([f for axis in value.factors for f in axis])
            held = [different(self.group_of[f]) for f in factors]
            found[name] = frozenset(i for h in held for i in h if i != NONE)
        return found

    @cached_property
    def producers(self) -> dict[str, gs.Node]:
        """The node that makes each tensor, by any of its outputs."""
        return {t.name: n for n in self.trace.model.graph.nodes for t in n.outputs if t.name}

    def on(self, factors: Factors) -> list[Group]:
        """The groups along an axis, in the order of its factors."""
        found: list[int] = []
        for factor in self.trace.ids.resolve(factors):
            for index in different(self.group_of[factor]):
                if index != NONE and index not in found:
                    found.append(index)
        return [self.groups[i] for i in found]

    def members(self, factors: Factors) -> dict[int, Ids]:
        """For each group along an axis (by position in ``groups``), its neuron at every position, -1 for none."""
        found: dict[int, Ids] = {}
        for factor in self.trace.ids.resolve(factors):
            held = self.group_of[factor]
            for index in sorted(different(held[held != NONE])):
                here = np.where(held == index, self.neuron_of[factor], NONE)
                found.setdefault(index, self._same.setdefault(here.tobytes(), here))
        return found


def grouping(trace: Trace) -> Grouping:
    """Group the classes of a finished trace; pins and graph outputs are noted on the groups."""
    trace.ids.trim()
    signature, where = _signatures(trace)
    group_of = np.full(trace.ids.size, NONE, np.int64)
    neuron_of = np.full(trace.ids.size, NONE, np.int64)
    classes = np.flatnonzero(signature)
    values, first, inverse = np.unique(signature[classes], return_index=True, return_inverse=True)
    order = np.argsort(first)  # groups in the order in which the graph meets them
    groups = []
    for index, value in enumerate(order.tolist()):
        members = classes[inverse == value]
        group_of[members], neuron_of[members] = index, np.arange(members.size)
        groups.append(Group(members, where[int(values[value])]))
    found = Grouping(trace, groups, group_of, neuron_of)
    _note_pins(trace, found)
    return found


def _signatures(trace: Trace) -> tuple[Ids, dict[int, list[Slot]]]:
    """A 64-bit sum for each class over the places it stands in (equal sums are equal places), and those places."""
    random = np.random.default_rng(0)
    signature = np.zeros(trace.ids.size, np.int64)
    standing: list[tuple[Slot, Ids]] = []
    for slot in trace.slots:
        ids = np.arange(slot.start, slot.start + slot.size)
        for factor in trace.ids.resolve([ids]):
            roots, _, inverse = distinct(factor[factor != ALWAYS])
            place, often = random.integers(1 << 62, size=2)
            with np.errstate(over="ignore"):
                signature[roots] += place + np.bincount(inverse) * often
            standing.append((slot, roots))
    where: dict[int, list[Slot]] = {}
    for slot, roots in standing:
        for value in sorted(different(signature[roots])):
            slots = where.setdefault(value, [])
            if slot not in slots[-1:]:
                slots.append(slot)
    return signature, where


def _note_pins(trace: Trace, found: Grouping) -> None:
    for pin in trace.pins:
        for group in found.on((pin.ids,)):
            group.pinned = group.pinned or pin.reason
    for tensor in trace.model.graph.outputs:
        value = trace.values.get(tensor.name)
        for factors in value.factors if value else ():
            for group in found.on(factors):
                if tensor.name not in group.outputs:
                    group.outputs.append(tensor.name)


def different(values: Ids) -> list[int]:
    """The numbers among them, in the order in which they first stand there; mostly it is one."""
    if values.size and (values == values[0]).all():
        return [int(values[0])]
    return list(dict.fromkeys(values.tolist()))
