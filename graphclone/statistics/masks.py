"""Finds which positions count: the mask inputs of a graph, and which of them applies to which value.

Layouts are learned from one run whose sizes tell them apart: a batch of 3, lengths that are prime and differ from
sequence to sequence, and padding, which a graph that packs its sequences drops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.errors import BadData, InvalidTarget
from graphclone.feeds import Input
from graphclone.graph import Model

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
BATCH, LENGTHS = 3, (13, 17, 19, 23)  # no model has 13 heads, or a width of 39
PADDED = 2  # positions at the end of the second sequence


@dataclass(frozen=True)
class Layout:
    """How a value lies under a mask [batch, length].

    ``mask``: its input, None where every position counts. ``flat``: batch and length share the first axis.
    ``turned``: length comes before batch. ``rank``: of the value, once it is no longer flat.
    """

    rank: int
    mask: str | None = None
    flat: bool = False
    turned: bool = False


@dataclass(frozen=True)
class Tiny:
    """The feeds of the run that learned the layouts."""

    known: Mapping[str, Input]
    fed: Mapping[str, Array]

    @property
    def masks(self) -> dict[str, tuple[int, int]]:
        """Batch and length of every mask of two axes."""
        found = {n: self.fed[n].shape for n, i in self.known.items() if i.role.name == "mask" and len(i.shape) == 2}
        return {name: (int(shape[0]), int(shape[1])) for name, shape in found.items()}


def learn(
    model: Model, shapes_of: Callable[[Mapping[str, Array]], Mapping[str, Shape]]
) -> tuple[Tiny, dict[str, Shape]]:
    """Run tiny feeds through ``shapes_of`` (value -> shape); sequences get lengths of their own where that runs."""
    refused: BadData | None = None
    for tiny in _tries(model):
        try:
            return tiny, dict(shapes_of(tiny.fed))
        except BadData as reason:  # sequences that have to be as long as each other, or nothing may be masked
            refused = refused or reason
    raise refused or BadData("there is nothing to feed")


def _tries(model: Model) -> Iterator[Tiny]:
    known = feeds.inputs(model)
    for lengths, padded in ((LENGTHS, True), (LENGTHS, False), (LENGTHS[:1], True), (LENGTHS[:1], False)):
        primary: dict[str, Array] = {}
        names: dict[Any, int] = {}  # a symbolic length has one size
        for given in (i for i in known.values() if i.primary):
            axis = given.shape[1] if len(given.shape) > 1 else None
            length = names.setdefault(axis, lengths[len(names) % len(lengths)])
            primary[given.name] = feeds.tiny_feeds(model, BATCH, length)[given.name]
        try:
            fed = feeds.fill(known, primary)
        except BadData:  # axes of one name elsewhere
            fed = feeds.tiny_feeds(model, BATCH, lengths[0])
        if padded:
            for name, given in known.items():
                if given.role.name == "mask" and len(given.shape) == 2 and min(fed[name].shape) > PADDED:
                    fed[name] = np.array(fed[name])
                    fed[name][1, -PADDED:] = 0
        yield Tiny(known, fed)


def named(name: str, tiny: Tiny) -> str:
    """The mask input that was asked for. Raises InvalidTarget where it is none."""
    if name not in tiny.masks:
        there = ", ".join(f"{i}" for i in tiny.known.values())
        raise InvalidTarget(f"mask {name!r} is no mask input of two axes; the graph has {there}")
    return name


def owners(model: Model, values: Sequence[str], known: Mapping[str, Input]) -> dict[str, str]:
    """For each value, the primary input whose positions it has: of those it depends on, the one that fewest others do.

    A decoder reads the encoder's output, so its values depend on both inputs; they have the decoder's positions.
    """
    primary = [i.name for i in known.values() if i.primary]
    reach: dict[str, set[str]] = {name: {name} for name in primary}
    for node in model.graph.nodes:
        for reached in reach.values():
            if any(t.name in reached for t in node.inputs):
                reached.update(t.name for t in node.outputs if t.name)
    found = {}
    for value in values:
        on = [name for name in primary if value in reach[name]]
        if on:
            found[value] = min(on, key=lambda name: len(reach[name]))
    return found


def pairs(tiny: Tiny) -> dict[str, str]:
    """For each primary input, the mask of its positions, where there is exactly one (or one that is for attention)."""
    primary = [i.name for i in tiny.known.values() if i.primary]
    found = {}
    for name in primary:
        fits = [
            mask
            for mask, sizes in tiny.masks.items()
            if len(primary) == 1 or (_side(name) == _side(mask) and tiny.fed[name].shape[:2] == sizes)
        ]
        if len(fits) > 1:  # others say which tokens to predict, which pairs to look at
            fits = [mask for mask in fits if mask.endswith("attention_mask")]
        if len(fits) == 1:
            found[name] = fits[0]
    return found


def _side(name: str) -> bool:
    """Whether an input is the decoder's: decoder_input_ids, decoder_attention_mask."""
    return "decoder" in name.lower()


def layout(shape: Shape, axis: int, mask: tuple[int, int] | None, name: str | None) -> Layout:
    """How a value of this shape in the tiny run, neurons along ``axis`` (negative), lies under a mask of two sizes."""
    rank, inner = len(shape), len(shape) + axis
    if mask is None or name is None:
        return Layout(rank)
    if inner >= 2 and tuple(shape[:2]) == mask:
        return Layout(rank, name)
    if inner >= 2 and tuple(shape[:2]) == mask[::-1]:
        return Layout(rank, name, turned=True)
    if inner >= 1 and shape[0] == mask[0] * mask[1]:
        return Layout(rank + 1, name, flat=True)
    return Layout(rank)
