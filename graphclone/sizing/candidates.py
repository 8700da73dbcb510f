"""Every shape that a parent can have, what each would lose, and the few that are worth a look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.anatomy.vocabulary import KIND as VOCABULARY
from graphclone.errors import InvalidTarget
from graphclone.sizing.census import Census, Weight
from graphclone.statistics.depth import BEST, choose, influences, settled
from graphclone.statistics.store import Statistics
from graphclone.target import Target

Array = np.ndarray[Any, Any]
STEP = 32  # channels and neurons come in multiples of it, as vector units like them
MOST = 48  # sizes of one kind at most: the step grows with the parent
NEAR = 0.9  # a clone that leaves more of a budget unused is worth no look
NEAREST = 3  # shapes that are named where none meets a budget
AMOUNTS: Mapping[str, Callable[[float], str]] = {
    "params": lambda n: f"{n:,.0f} parameters",
    "size": lambda n: f"{n:,.0f} bytes",
    "latency": lambda t: f"{t * 1e3:.3g} ms",
}
KINDS = {"residual": "hidden", "tail": "hidden", "ffn": "ffn", "head": "kv_heads", "kv_head": "kv_heads"}


@dataclass(frozen=True)
class Shape:
    """A clone's sizes; heads follow the KV heads, in the parent's groups."""

    hidden: int
    kv_heads: int
    ffn: int
    layers: int

    def heads(self, anatomy: Anatomy) -> int:
        """Query heads."""
        part = next(a for b in anatomy.stacks[0].blocks for a in b.attention)
        return self.kv_heads * (part.heads // part.kv_heads)

    def words(self, anatomy: Anatomy) -> str:
        """In one line.

        ``hidden 384, heads 6/2, ffn 1024, layers 20``
        """
        heads = f"{self.heads(anatomy)}/{self.kv_heads}"
        return f"hidden {self.hidden}, heads {heads}, ffn {self.ffn}, layers {self.layers}"


@dataclass(frozen=True)
class Shapes:
    """Many shapes as columns [n]."""

    hidden: Array
    kv_heads: Array
    ffn: Array
    layers: Array

    def __getitem__(self, index: int) -> Shape:
        """One of them."""
        return Shape(int(self.hidden[index]), int(self.kv_heads[index]), int(self.ffn[index]), int(self.layers[index]))

    def __len__(self) -> int:
        """How many there are."""
        return int(self.hidden.size)


def whole(anatomy: Anatomy) -> Shape:
    """The parent's own shape. Raises InvalidTarget where blocks differ, or stacks: then sizes have to be given."""
    shapes = {
        Shape(
            stack.hidden,
            block.attention[0].kv_heads if block.attention else 0,
            block.feed_forward[0].ffn if block.feed_forward else 0,
            len(stack.blocks),
        )
        for stack in anatomy.stacks
        for block in stack.blocks
    }
    if len(anatomy.stacks) != 1 or len(shapes) != 1:
        raise InvalidTarget(
            f"a budget is met by one shape for all blocks of one stack; this model has {len(anatomy.stacks)} stacks "
            f"and {len(shapes)} kinds of blocks: give sizes (--hidden, --heads, --ffn, --layers)"
        )
    (shape,) = shapes
    if not shape.kv_heads or not shape.ffn:
        raise InvalidTarget("a budget is met by cutting heads and feed-forward, and a block here lacks one: give sizes")
    return shape


def target_of(shape: Shape, anatomy: Anatomy) -> Target:
    """A shape as a target: what is as the parent has it is left out."""
    own = whole(anatomy)
    sizes, full = ({**asdict(one), "heads": one.heads(anatomy)} for one in (shape, own))
    asked = {name: size for name, size in sizes.items() if size != full[name]}
    if {"heads", "kv_heads"} & asked.keys():
        asked |= {name: sizes[name] for name in ("heads", "kv_heads")}
    return Target(**(asked or {"layers": sizes["layers"]}))


def enumerate_shapes(anatomy: Anatomy) -> Shapes:
    """All combinations of sizes at most the parent's that nothing pins."""
    full = whole(anatomy)
    free = {KINDS[g.kind] for g in anatomy.groups.values() if g.kind in KINDS and g.pinned is None}
    free -= {KINDS[g.kind] for g in anatomy.groups.values() if g.kind in KINDS and g.kind != "tail" and g.pinned}

    def sizes(name: str, most: int, step: int) -> Array:
        if name not in free:
            return np.array([most])
        step = step * -(-most // (step * MOST))
        return np.unique([*range(step, most, step), most]) if most > step else np.array([most])

    grid = np.meshgrid(
        sizes("hidden", full.hidden, STEP),
        sizes("kv_heads", full.kv_heads, 1),
        sizes("ffn", full.ffn, STEP),
        np.arange(1, full.layers + 1),
        indexing="ij",
    )
    return Shapes(*(axis.reshape(-1) for axis in grid))


def parameters(census: Census, shapes: Shapes, tokens: int | None = None, *, untied: bool = False) -> Array:
    """Of each shape, int64 [n]. Blocks are equal, so one stands for all. tokens: how many stay, None for all.
    untied: heads that are the embedding are weights of their own where the stream is narrower."""
    anatomy, full = census.anatomy, whole(census.anatomy)
    rows = next((g.size for g in anatomy.groups.values() if g.kind == VOCABULARY), 0)
    shares: dict[str, Array | float] = {
        VOCABULARY: 1.0 if tokens is None or not rows else tokens / rows,
        "hidden": shapes.hidden / full.hidden,
        "kv_heads": shapes.kv_heads / full.kv_heads,
        "ffn": shapes.ffn / full.ffn,
    }
    twice = 1.0 + (untied & (shapes.hidden < full.hidden))
    alike: dict[tuple[Any, ...], tuple[Weight, int, int]] = {}
    for weight in census.weights:
        kinds = tuple(
            tuple((count, tuple(anatomy.groups[g].kind for g in names)) for count, names in axis)
            for axis in weight.parts
        )
        key = (kinds, weight.shape, weight.tied)
        _, inside, outside = alike.get(key, (weight, 0, 0))
        alone = weight.homes is not None and len(weight.homes) == 1
        alike[key] = (weight, inside + alone, outside + (not alone))
    total = np.zeros(len(shapes))
    for weight, inside, outside in alike.values():
        size = np.ones(len(shapes))
        for axis in weight.parts:
            size = size * sum(n * _share(anatomy, names, shares) for n, names in axis)
        size = np.round(size) * (twice if weight.tied else 1.0)
        total += size * (outside + inside * shapes.layers / full.layers)
    return np.round(total).astype(np.int64)


def _share(anatomy: Anatomy, names: tuple[str, ...], shares: Mapping[str, Array | float]) -> Array | float:
    found: Array | float = 1.0
    for name in names:
        kind = anatomy.groups[name].kind
        found = found * shares.get(KINDS.get(kind, kind), 1.0)
    return found


def predicted_loss(
    anatomy: Anatomy, scores: Mapping[str, Array], statistics: Statistics | None, shapes: Shapes, depth: str
) -> Array:
    """A number that grows with what is dropped: the share of each kind's importance, and the influence of the blocks
    that a rule of ``depth`` drops.

    It ranks shapes for a closer look, nothing more; [n].
    """
    (stack,) = anatomy.stacks
    full = whole(anatomy)
    lost = _dropped([scores.get(stack.residual)], full.hidden)[shapes.hidden]
    for kind, wanted, most in (("ffn", shapes.ffn, full.ffn), ("kv_heads", shapes.kv_heads, full.kv_heads)):
        groups = [g for g in anatomy.groups.values() if KINDS.get(g.kind) == kind and g.block is not None]
        lost = lost + _dropped([scores.get(g.name) for g in groups], most)[wanted]
    return np.asarray(lost + _dropped_blocks(anatomy, statistics, depth)[shapes.layers])


def _dropped(scores: list[Array | None], size: int) -> Array:
    """Mean share of the scores that is dropped, by how many are kept [size + 1]."""
    held = [np.sort(s)[::-1] for s in scores if s is not None and s.size == size and s.sum() > 0]
    if not held:
        return 1.0 - np.arange(size + 1) / size
    shares = [np.concatenate([[0.0], np.cumsum(s)]) / s.sum() for s in held]
    return np.asarray(1.0 - np.mean(shares, axis=0))


def _dropped_blocks(anatomy: Anatomy, statistics: Statistics | None, depth: str) -> Array:
    """Influence (1 - cosine of entry and exit) of the blocks that a rule drops, by how many stay."""
    (stack,) = anatomy.stacks
    count = len(stack.blocks)
    influence = np.full(count, 1.0 / count)
    if statistics is not None and settled(BEST, stack, statistics) != "paper":
        influence = np.array(influences(anatomy, stack, statistics))
    whole = float(influence.sum())
    kept = [choose(depth, anatomy, stack, statistics, layers) for layers in range(1, count + 1)]
    return np.array([whole, *(whole - float(influence[blocks].sum()) for blocks in kept)])


def shortlist(
    shapes: Shapes,
    predicted: Array,
    amounts: Mapping[str, Array],
    limits: Mapping[str, float],
    count: int,
    anatomy: Anatomy,
) -> list[int]:
    """The best predicted of each depth among those that use most of the budget, best first; then the next of each
    depth. amounts: what each shape takes, [n] for each limit. Raises InvalidTarget where nothing fits, naming what is
    nearest."""
    used = np.max([amounts[name] / limits[name] for name in limits], axis=0)
    fits = used <= 1.0
    if not fits.any():
        asked = ", ".join(AMOUNTS[name](limits[name]) for name in limits)
        near = np.argsort(used, kind="stable")[:NEAREST]
        have = (", ".join(AMOUNTS[name](float(amounts[name][k])) for name in limits) for k in near)
        named = "; ".join(f"{shapes[int(k)].words(anatomy)} with {has}" for k, has in zip(near, have, strict=True))
        raise InvalidTarget(f"no shape meets the budget of {asked}; nearest: {named}")
    close = np.flatnonzero(fits & (used >= min(NEAR, float(used[fits].max()))))
    order = close[np.argsort(predicted[close], kind="stable")]
    rank = np.empty(order.size, np.int64)
    seen: dict[int, int] = {}
    for position, index in enumerate(order.tolist()):
        layers = int(shapes.layers[index])
        rank[position] = seen[layers] = seen.get(layers, -1) + 1
    by_turns = order[np.lexsort((predicted[order], rank))]
    return [int(k) for k in by_turns[:count]]
