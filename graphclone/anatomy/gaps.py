"""Finds runs of dropped blocks, and the last kept block before each, whose output can make up for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from graphclone.anatomy.parts import Anatomy, Site, Stack


@dataclass(frozen=True)
class Gap:
    """Blocks that go after one that stays. ``inner`` and ``writer``: what the last projection of that block onto the
    stream reads and what it adds; ``leaves``: the stream behind the block; ``arrives``: behind the last that goes."""

    stack: str
    block: int
    dropped: tuple[int, ...]
    inner: Site
    writer: Site
    leaves: str
    arrives: str

    @property
    def name(self) -> str:
        """Of the place where the second pass measures it."""
        return f"{self.inner.name}.gap"


def gaps(
    anatomy: Anatomy, drop_blocks: Mapping[str, Collection[int]], without: Mapping[str, Collection[int]] | None = None
) -> Iterator[Gap]:
    """Every gap of a plan. ``without``: blocks that stay without their feed-forward, which cannot make up for any."""
    for stack in anatomy.stacks:
        dropped = set(drop_blocks.get(stack.name, ()))
        blocks = sorted(stack.blocks, key=lambda block: block.index)
        for place, block in enumerate(blocks[:-1]):
            if block.index in dropped or block.index in (without or {}).get(stack.name, ()):
                continue
            run = []
            for other in blocks[place + 1 :]:
                if other.index not in dropped:
                    break
                run.append(other)
            pair = _last_projection(anatomy, stack, block.index)
            if run and pair:
                gone = tuple(b.index for b in run)
                yield Gap(stack.name, block.index, gone, *pair, block.exit, run[-1].exit)


def _last_projection(anatomy: Anatomy, stack: Stack, block: int) -> tuple[Site, Site] | None:
    prefix = "" if len(anatomy.stacks) == 1 else f"{stack.name}."
    here = {s.name: s for s in anatomy.sites if s.name.startswith(f"{prefix}blocks.{block}.")}
    pairs = [
        (site, here[f"{name.removesuffix('.in')}.out"])
        for name, site in here.items()
        if site.kind == "inner" and f"{name.removesuffix('.in')}.out" in here
    ]
    feeding = [pair for pair in pairs if ".ffn" in pair[0].name]
    return next(reversed(feeding or pairs), None)
