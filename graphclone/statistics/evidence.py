"""Holds what a score may look at: the probe's sums, and the parent's weights, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy, AxisRef, Ids, Linear, NeuronGroup, Site
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics

Array = np.ndarray[Any, Any]
AT_ONCE = 1 << 24  # elements of a weight in float32 at a time: 64 MB
HEADS = ("head", "kv_head", "group")


@dataclass(frozen=True)
class Evidence:
    """What a score may look at. weights: the parent's initializers by name, looked up as they are needed."""

    anatomy: Anatomy
    statistics: Statistics | None
    weights: Mapping[str, Array] | None
    seed: int = 0

    def sites(self, group: NeuronGroup, *kinds: str) -> list[Site]:
        """The sites of the first of these kinds that the group has any of."""
        for kind in kinds:
            found = [s for s in self.anatomy.sites if s.kind == kind and group.name in s.members]
            if found:
                return found
        return []

    def mean(self, site: Site, statistic: str) -> Array:
        """float64 by position along the site's axis. Raises InvalidTarget where it was not measured."""
        assert self.statistics is not None
        held = self.statistics.sites.get(site.name, {})
        if statistic not in held:
            what = f"the site {site.name}" if not held else f"{statistic} at the site {site.name}"
            raise InvalidTarget(f"the statistics lack {what}: measure again")
        return self.statistics.mean(site.name, statistic)

    def has(self, site: Site, statistic: str) -> bool:
        """Whether it was measured, at one position at least."""
        held = self.statistics
        return (
            held is not None and statistic in held.sites.get(site.name, {}) and held.positions(site.name, statistic) > 0
        )

    def readers(self, site: Site) -> list[Linear]:
        """The products that read what the site measures, along one axis of their weight (Keras may use two)."""
        found = [p for p in self.anatomy.linears if p.input == site.value and p.in_axis >= 0]
        held = self.weights
        if held is None:
            return found
        return [p for p in found if p.weight in held and held[p.weight].shape[p.in_axis] == site.width]

    def readers_in(self, block: int | None, stack: int, group: NeuronGroup) -> list[Linear]:
        """The products of a block (None: of no block) of a stack that read a group."""
        return [
            p
            for p in self.anatomy.linears
            if group.name in p.reads and p.in_axis >= 0 and self._home.get(p.node, (None, None)) in _where(stack, block)
        ]

    def stack_of(self, site: Site) -> int:
        """The stack whose name the site's begins with."""
        names = [stack.name for stack in self.anatomy.stacks]
        return next((k for k, name in enumerate(names) if site.name.startswith(f"{name}.")), 0)

    @cached_property
    def _home(self) -> dict[str, tuple[int | None, int | None]]:
        return {
            node: (number, block.index)
            for number, stack in enumerate(self.anatomy.stacks)
            for block in stack.blocks
            for node in block.nodes
        }

    def members(self, linear: Linear, group: NeuronGroup) -> Ids | None:
        """The group's neuron at each position that a product's weight reads."""
        return dict(self.anatomy.axes.get(AxisRef(linear.weight, linear.in_axis), ())).get(group.name)

    def along(self, name: str, axis: int, power: int) -> Array | None:
        """Sums of |w|^power over all axes but one, float64; None where it is no weight. Integers are scaled."""
        assert self.weights is not None
        held = self.weights.get(name)
        if held is None or not (held.dtype.kind in "fV" or held.dtype.itemsize == 1 and held.ndim > 1) or not held.ndim:
            return None
        total = np.zeros(held.shape[axis])
        for rows, where in self._pieces(name, held):
            whole = np.abs(rows) if power == 1 else rows * rows
            others = tuple(k for k in range(rows.ndim) if k != axis)
            summed = whole.sum(axis=others, dtype=np.float64)
            if axis == 0:
                total[where] += summed
            else:
                total += summed
        return total

    def columns(self, linear: Linear, positions: Array) -> Array:
        """float32 [others, positions]: what a weight does with some positions that it reads."""
        assert self.weights is not None
        held = self.weights[linear.weight]
        taken = np.take(held, positions, axis=linear.in_axis)
        scale, zero = self._scale(linear.weight, held)
        if scale is not None and scale.size > 1 and linear.in_axis == _scaled_axis(held, scale):
            scale, zero = scale[positions], zero if zero is None or zero.size == 1 else zero[positions]
        real = _real(taken, scale, zero)
        return np.moveaxis(real, linear.in_axis, -1).reshape(-1, positions.size)

    def _pieces(self, name: str, held: Array) -> Iterator[tuple[Array, slice]]:
        """The weight as float32, some rows of the first axis at a time."""
        scale, zero = self._scale(name, held)
        rows = max(1, AT_ONCE // max(1, held[0].size)) if held.shape[0] else 1
        by_row = scale is not None and scale.size > 1 and _scaled_axis(held, scale) == 0
        for start in range(0, held.shape[0], rows):
            where = slice(start, start + rows)
            if by_row and scale is not None:
                some = zero if zero is None or zero.size == 1 else zero[where]
                yield _real(held[where], scale[where], some, 0), where
            else:
                yield _real(held[where], scale, zero), where

    def _scale(self, name: str, held: Array) -> tuple[Array | None, Array | None]:
        """Scale and zero point of integers, as onnxruntime's quantiser names them; else 1, and the middle."""
        assert self.weights is not None
        if held.dtype.kind in "fV":
            return None, None
        base = name.removesuffix("_quantized")
        scale = np.asarray(self.weights.get(f"{base}_scale", 1.0), np.float32)
        zero = np.asarray(self.weights.get(f"{base}_zero_point", 128 if held.dtype.kind == "u" else 0), np.float32)
        return scale.reshape(-1), zero.reshape(-1)


def _where(stack: int, block: int | None) -> set[tuple[int | None, int | None]]:
    return {(None, None)} if block is None else {(stack, block)}


def _scaled_axis(held: Array, scale: Array) -> int:
    """The axis that has a scale a channel: the last that fits, where weights write."""
    return max((k for k, size in enumerate(held.shape) if size == scale.size), default=-1)


def _real(values: Array, scale: Array | None, zero: Array | None, axis: int | None = None) -> Array:
    """float32, whatever they are stored as."""
    made = values.astype(np.float32)
    if scale is None or zero is None:
        return made
    if axis is None:
        axis = max((k for k, size in enumerate(values.shape) if size == scale.size), default=values.ndim - 1)
    shape = [-1 if k == axis else 1 for k in range(values.ndim)]
    made = made - (zero.reshape(shape) if zero.size > 1 else zero)
    return np.asarray(made * (scale.reshape(shape) if scale.size > 1 else scale), np.float32)


def gathered(values: Array, members: Ids, size: int, *, mean: bool) -> Array:
    """Per neuron the mean, or the sum, of the values at its positions."""
    held = members >= 0
    sums = np.bincount(members[held], values[held], minlength=size)
    if not mean:
        return sums
    return np.asarray(sums / np.maximum(np.bincount(members[held], minlength=size), 1))
