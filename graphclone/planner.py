"""Statistics + Target -> Plan: which neurons, heads and blocks stay, for exactly the shape that was asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from graphclone import best
from graphclone.anatomy.parts import Anatomy, Attention, Block, NeuronGroup, Stack
from graphclone.errors import InvalidTarget
from graphclone.plan import BEST, Plan
from graphclone.statistics.depth import BEST as BEST_DEPTH
from graphclone.statistics.depth import choose
from graphclone.statistics.depth import refuse_unknown as refuse_unknown_depth
from graphclone.statistics.importance import find, score, select
from graphclone.statistics.store import Statistics
from graphclone.target import Asked, EachBlock, Target, answerable, kept_blocks, middle, of_block, without_part

__all__ = ["Target", "plan", "refuse_unreachable"]

Array = np.ndarray[Any, Any]


def plan(
    anatomy: Anatomy,
    statistics: Statistics | None,
    target: Target,
    *,
    importance: str = "equal-vote",
    method: str = BEST,
    depth: str = BEST_DEPTH,
    weights: Mapping[str, Array] | None = None,
) -> Plan:
    """Choose what is kept: the neurons that score highest, ascending, and the blocks that ``depth`` says.

    weights: the parent's initializers, for importances that look at them. ``Plan.target`` records what was asked for,
    in numbers.

    Raises InvalidTarget for a shape that cannot be reached (naming what can), for what is pinned, and for statistics
    that are missing or of another parent.
    """
    asked = answerable(anatomy, target)
    find(importance)
    refuse_unknown_depth(depth)
    depth = best.depth_beside(method, depth)
    wide = set(asked) - {"layers"}
    scores = score(importance, anatomy, statistics, weights) if wide else {}
    chooser = _Chooser(anatomy, importance, scores, statistics)
    dropped, without = {}, {part: without_part(anatomy, target, part) for part in ("drop_attention", "drop_ffn")}
    repeated = {}
    for stack in anatomy.stacks:
        layers = asked.get("layers")
        if target.deeper and isinstance(layers, int) and layers > len(stack.blocks):
            repeated[stack.name] = middle(len(stack.blocks), layers)
            chooser.reach("layers", layers)
            layers = None
        kept = kept_blocks(stack, target) or _depth(stack, layers, depth, chooser)
        dropped[stack.name] = tuple(b.index for b in stack.blocks if b.index not in kept)
        _hidden(stack, asked, chooser)
        for block in stack.blocks:
            here = of_block(stack, block, asked)
            if block.index in kept and block.index not in without["drop_attention"].get(stack.name, ()):
                _heads(block, here, chooser)
                _head_dim(block, here, chooser)
            if block.index in kept and block.index not in without["drop_ffn"].get(stack.name, ()):
                _ffn(block, here, chooser)
    if target.deeper and not repeated:
        raise InvalidTarget("deeper: give more layers than the parent has, or leave it out")
    if unmet := sorted(set(asked) - set(chooser.reached)):
        raise InvalidTarget(f"{', '.join(unmet)}: nothing in this model has such a size")
    return Plan(
        parent=anatomy.fingerprint,
        keep=chooser.keep,
        drop_blocks={name: indices for name, indices in dropped.items() if indices},
        method=best.settled(method, statistics, anatomy, target, chooser.keep),
        importance=importance,
        target={n: _recorded(chooser.reached[n], getattr(target, n)) for n in sorted(asked)},
        drop_attention=without["drop_attention"],
        drop_feed_forward=without["drop_ffn"],
        repeat_blocks=repeated,
    )


def refuse_unreachable(anatomy: Anatomy, target: Target, *, importance: str, method: str, depth: str) -> None:
    """Raises InvalidTarget for what ``plan`` will refuse whatever is measured: names, shapes, what is pinned."""
    find(importance)
    refuse_unknown_depth(depth)
    plan(anatomy, None, target, importance="first", method=method, depth="paper")


def _recorded(reached: set[int], asked: Any) -> int | str:
    """The size that was reached; the target's own words where blocks differ."""
    return next(iter(reached)) if len(reached) == 1 else str(asked)


class _Chooser:
    """Collects keep-sets, and the sizes reached for each part of the target."""

    def __init__(
        self, anatomy: Anatomy, importance: str, scores: Mapping[str, Array], statistics: Statistics | None
    ) -> None:
        self.anatomy = anatomy
        self.statistics = statistics
        self.importance = importance
        self.scores = scores
        self.keep: dict[str, tuple[int, ...]] = {}
        self.reached: dict[str, set[int]] = {}

    def cut(self, group: NeuronGroup, count: int, otherwise: str | None = None) -> None:
        """Keep ``count`` neurons of a group, by the importance ``otherwise`` where nothing is known about it. Raises
        InvalidTarget where it is pinned, is kept at another count, or nothing is known and there is no other."""
        kept = len(self.keep.get(group.name, ()))
        if kept not in (0, count):
            raise InvalidTarget(f"{group.name} cannot keep {count} neurons: another part of the target keeps {kept}")
        if count == group.size:
            self.keep[group.name] = tuple(range(group.size))
            return
        if group.pinned is not None:
            raise InvalidTarget(f"{group.name} stays at {group.size}: {group.pinned}")
        if group.name not in self.scores and otherwise is not None:
            self.keep[group.name] = tuple(int(i) for i in select(otherwise, np.zeros(group.size), count))
            return
        if group.name not in self.scores:
            raise InvalidTarget(
                f"{group.name}: importance {self.importance} says nothing about it; try first or uniform"
            )
        chosen = select(self.importance, self.scores[group.name], count)
        self.keep[group.name] = tuple(int(i) for i in chosen)

    def reach(self, name: str, size: int) -> None:
        self.reached.setdefault(name, set()).add(size)


def _fit(name: str, asked: Asked, whole: int, feasible: Iterable[int], where: str) -> int:
    """The size asked, or for a share the largest feasible one not above it. Raises InvalidTarget, naming what fits."""
    sizes = sorted(set(feasible))
    if isinstance(asked, Fraction):
        most = math.floor(asked * whole)
        below = [size for size in sizes if size <= most]
        if below:
            return below[-1]
        raise InvalidTarget(f"{name} {float(asked):.3g} x {whole}: {where} can have {_listed(sizes)}")
    if asked in sizes:
        return asked
    near = sorted(sorted(sizes, key=lambda size: (abs(size - asked), size))[:2])
    raise InvalidTarget(
        f"{name} {asked}: {where} has {whole} and can have {_listed(sizes)}; nearest: {' or '.join(map(str, near))}"
    )


def _listed(sizes: Sequence[int]) -> str:
    if len(sizes) > 1 and list(sizes) == list(range(sizes[0], sizes[-1] + 1)):
        return f"{sizes[0]} to {sizes[-1]}"
    return ", ".join(map(str, sizes)) or "no other"


def _hidden(stack: Stack, asked: Mapping[str, Asked | EachBlock], chooser: _Chooser) -> None:
    """One ordering of the residual stream, and the same neurons in what follows its width outside the stack."""
    if "hidden" not in asked:
        return
    groups = chooser.anatomy.groups
    residual = groups[stack.residual]
    wanted = asked["hidden"]
    assert not isinstance(wanted, EachBlock)
    where = stack.name + _kept_together(chooser.anatomy, stack)
    count = _fit("hidden", wanted, residual.size, range(1, residual.size + 1), where)
    chooser.cut(residual, count)
    chooser.reach("hidden", count)
    for name in sorted(groups):
        group = groups[name]
        if group.kind != "tail" or group.size != residual.size or group.pinned is not None or name in chooser.keep:
            continue
        if name in chooser.scores:
            chooser.cut(group, count)
        else:
            chooser.keep[name] = chooser.keep[residual.name]


def _kept_together(anatomy: Anatomy, stack: Stack) -> str:
    """Where each neuron of the stream stands for several (the groups of a GroupNorm): how many, and why."""
    axes = [{name for name, _ in held} for held in anatomy.axes.values()]
    along = [names for names in axes if stack.residual in names and len(names) > 1]
    beside = [anatomy.groups[name] for name in sorted(set.intersection(*along) - {stack.residual})] if along else []
    return "".join(f" (of {group.size} channels each: {group.pinned})" for group in beside if group.pinned)


def _ffn(block: Block, asked: Mapping[str, Asked], chooser: _Chooser) -> None:
    if "ffn" not in asked:
        return
    for part in block.feed_forward:
        group = chooser.anatomy.groups[part.group]
        count = _fit("ffn", asked["ffn"], group.size, range(1, group.size + 1), group.name)
        chooser.cut(group, count)
        chooser.reach("ffn", count)


def _head_dim(block: Block, asked: Mapping[str, Asked], chooser: _Chooser) -> None:
    """The same positions of every head, rotary pairs whole, values in proportion. What no importance has seen is kept
    at equal distances: rotary frequencies from the highest to the lowest."""
    if "head_dim" not in asked:
        return
    for part in block.attention:
        groups = [(chooser.anatomy.groups[name], held) for name, held in part.qk_dims]
        groups = [(group, held) for group, held in groups if group.size > 1]  # of pairs side by side, too
        along = [*groups, *((chooser.anatomy.groups[name], held) for name, held in part.v_dims)]
        sizes = range(1 if groups and part.v_dims else part.head_dim, part.head_dim + 1)  # values may be the stream's
        feasible = [size for size in sizes if all(_shared_out(size, part, *g) for g in along)]
        pinned = next((f" ({g.pinned})" for g, _ in along if g.pinned), "")
        size = _fit("head_dim", asked["head_dim"], part.head_dim, feasible, f"block {block.index}{pinned}")
        for group, held in along:
            if group.pinned is None:
                chooser.cut(group, _shared_out(size, part, group, held), otherwise="uniform")
        chooser.reach("head_dim", size)


def _shared_out(size: int, part: Attention, group: NeuronGroup, held: int) -> int:
    """How many neurons a group that holds so many positions of a head has in a head of ``size``; 0 where the share is
    no whole number of them."""
    neurons = Fraction(size * held, part.head_dim) / (held // group.size)
    whole = neurons.denominator == 1 and (group.pinned is None or size == part.head_dim)
    return int(neurons) if whole else 0


def _heads(block: Block, asked: Mapping[str, Asked], chooser: _Chooser) -> None:
    """Whole heads; whole KV groups where several queries share a KV head; never paired anew."""
    if not {"heads", "kv_heads"} & set(asked):
        return
    for part in block.attention:
        groups = [chooser.anatomy.groups[name] for name in part.head_groups]
        inner = [g for g in groups if g.kind == "group"]
        outer = [g for g in groups if g not in inner]
        pinned = [f"its heads: {g.pinned}" for g in groups if g.pinned]
        where = f"block {block.index}" + (f" ({pinned[0]})" if pinned else "")
        kv_heads, group = _head_shape(part, outer, inner, asked, where)
        for axes, count in ((outer, kv_heads), (inner, group)):
            for axis, size in zip(axes, _products(axes).get(count, ()), strict=False):
                chooser.cut(axis, size)
        chooser.reach("heads", kv_heads * group)
        chooser.reach("kv_heads", kv_heads)


def _head_shape(
    part: Attention,
    outer: Sequence[NeuronGroup],
    inner: Sequence[NeuronGroup],
    asked: Mapping[str, Asked],
    where: str,
) -> tuple[int, int]:
    """(kv_heads, queries per KV head) as asked."""
    whole = part.heads // part.kv_heads
    shapes = [
        (kv_heads, group)
        for kv_heads in (_products(outer) if outer else [part.kv_heads])
        for group in (_products(inner) if inner else [whole])
        # heads alone, or KV heads alone, keep the queries per KV head; with one KV head there is nothing else to cut
        if len({"heads", "kv_heads"} & set(asked)) == 2 or group == whole or part.kv_heads == 1
    ]
    where = f"{where} ({part.heads} heads on {part.kv_heads} KV heads)"
    if "kv_heads" in asked:
        count = _fit("kv_heads", asked["kv_heads"], part.kv_heads, {k for k, _ in shapes}, where)
        shapes = [shape for shape in shapes if shape[0] == count]
    if "heads" not in asked:
        return max(shapes)
    if "kv_heads" in asked:
        where += f" with {shapes[0][0]} KV heads"
    heads = _fit("heads", asked["heads"], part.heads, {k * g for k, g in shapes}, where)
    return next(shape for shape in shapes if shape[0] * shape[1] == heads)


def _products(axes: Sequence[NeuronGroup]) -> dict[int, tuple[int, ...]]:
    """Numbers of heads that axes of heads can have together (CodeGen has two: parts of the projection, and heads in
    each), with the size of each axis: the last ones are cut first. An axis that is pinned keeps its own."""
    found: dict[int, tuple[int, ...]] = {}
    for sizes in itertools.product(*([a.size] if a.pinned else range(a.size, 0, -1) for a in axes)):
        found.setdefault(math.prod(sizes), sizes)
    return dict(sorted(found.items()))


def _depth(stack: Stack, asked: Asked | EachBlock | None, depth: str, chooser: _Chooser) -> set[int]:
    """Indices of the blocks that stay."""
    indices = [block.index for block in stack.blocks]
    if asked is None:
        return set(indices)
    assert not isinstance(asked, EachBlock)
    where = stack.name if isinstance(asked, Fraction) or asked <= len(indices) else f"without --deeper {stack.name}"
    count = _fit("layers", asked, len(indices), range(1, len(indices) + 1), where)
    chooser.reach("layers", count)
    return {indices[position] for position in choose(depth, chooser.anatomy, stack, chooser.statistics, count)}
