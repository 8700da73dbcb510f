"""A parent under test, and what the properties of its clones share: answers, statistics, variants of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from graphclone import feeds
from graphclone.anatomy import inspect
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from tests.surgery.parents import Array, Parent, output_take
from tests.surgery.parents import session as opened
from tests.surgery.silenced import level, means, measured, without, without_epsilon

Cut = Callable[..., Model]


@dataclass
class Subject:
    """A parent, what it is fed, and what its properties share. cut: as ``surgery.operate.clone``. size: batch and
    length of what is answered; calibration: batches, and their size, of what least squares is fitted to."""

    found: Parent
    file: Path
    cut: Cut = clone
    size: tuple[int, int] = (2, 9)
    calibration: tuple[int, tuple[int, int]] = (32, (8, 32))
    kept: dict[str, tuple[Plan, Model]] = field(default_factory=dict)

    def answers(self, model: Model, size: tuple[int, int] | None = None) -> list[Array]:
        return list(opened(model).run(None, feeds.tiny_feeds(self.found.model, *(size or self.size))))

    @cached_property
    def wanted(self) -> list[Array]:
        return self.answers(self.found.model)

    def made(self, plan: Plan, found: Parent | None = None, *more: object) -> Model:
        found = found or self.found
        return self.cut(found.model, found.anatomy, plan, *more)

    @property
    def centred(self) -> bool:
        return any(norm.kind == "LayerNorm" for block in self.found.anatomy.stacks[0].blocks for norm in block.norms)

    @cached_property
    def gone(self) -> Array:
        """Every fourth channel of the stream."""
        return np.arange(3, self.found.anatomy.stacks[0].hidden - 1, 4)

    @cached_property
    def silent(self) -> Parent:
        """The parent whose dropped channels say nothing: they are zero, or what a LayerNorm takes for it."""
        sound = level(self.found) if self.centred else without_epsilon(self.found)
        found = without(sound, self.gone, centred=self.centred)
        post = any(n.placement == "post" for b in self.found.anatomy.stacks[0].blocks for n in b.norms)
        return means(found, self.gone) if post else found

    def narrowed(self, method: str) -> Model:
        """``silent`` without the channels that say nothing; made once a method."""
        if method not in self.kept:
            (stack,) = self.silent.anatomy.stacks
            plan = self.silent.plan({stack.residual: self.channels}, method)
            statistics = measured(self.silent, 1, (1, 16)) if method == "norm-gain" else None
            self.kept[method] = plan, self.made(plan, self.silent, statistics)
        return self.kept[method][1]

    @cached_property
    def small(self) -> Parent:
        """The parent's first block and its last, with 512 of their feed-forward's neurons at most."""
        (stack,) = self.found.anatomy.stacks
        sizes = {n: min(512, self.found.anatomy.groups[n].size) for n in self.found.groups("ffn")}
        plan = self.found.plan({n: range(size) for n, size in sizes.items()}, drop=range(1, len(stack.blocks) - 1))
        model = clone(self.found.model, self.found.anatomy, plan)
        return Parent(self.found.name, self.found.exporter, model, inspect(model))

    @cached_property
    def channels(self) -> Array:
        """Those that stay where ``gone`` go."""
        return np.setdiff1d(np.arange(self.found.anatomy.stacks[0].hidden), self.gone)


def followed(subject: Subject, answers: list[Array], keep: dict[str, Array]) -> list[Array]:
    """Outputs that are the stream, in the order in which it is kept."""
    takes = output_take(subject.found, keep)
    names = [t.name for t in subject.found.model.graph.outputs]
    return [np.take(a, takes[n][1], axis=takes[n][0]) if n in takes else a for n, a in zip(names, answers, strict=True)]


def activations(model: Model, names: list[str], size: tuple[int, int]) -> list[Array]:
    """Float64 [token, width] of tensors, on a batch that no other test draws."""
    shown = model.copy()
    shown.graph.outputs = [shown.graph.tensors()[name] for name in names]
    for tensor in shown.graph.outputs:
        tensor.dtype = np.dtype(np.float32)
    shown.graph.cleanup()
    fed = feeds.tiny_feeds(model, *size, seed=np.random.SeedSequence([8, 8]))
    return [a.reshape(-1, a.shape[-1]).astype(np.float64) for a in opened(shown).run(None, fed)]
