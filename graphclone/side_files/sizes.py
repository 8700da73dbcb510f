"""The sizes that a configuration states, read off an anatomy: the only source of what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphclone.anatomy.parts import Anatomy, Stack
from graphclone.anatomy.shapes import shape
from graphclone.anatomy.vocabulary import KIND
from graphclone.plan import Plan

Size = int | tuple[int, ...] | None  # one, one a block where blocks differ, or none


@dataclass(frozen=True)
class Change:
    """One stack before and after, by the names of sizes; ``kept``: the parent's index of each block of the
    clone."""

    name: str
    before: Mapping[str, Size]
    after: Mapping[str, Size]
    kept: tuple[int, ...]
    count: int  # blocks of the parent


def changes(parent: Anatomy, clone: Anatomy, plan: Plan) -> list[Change]:
    """Each stack of the parent beside the clone's, which has the same ones in the same order."""
    vocabularies = [_vocabulary(anatomy) for anatomy in (parent, clone)]
    found = []
    for old, new in zip(parent.stacks, clone.stacks, strict=True):
        stay = (b.index for b in old.blocks if b.index not in plan.drop_blocks.get(old.name, ()))
        kept = tuple(k for k in stay for _ in range(1 + plan.repeat_blocks.get(old.name, ()).count(k)))
        before, after = ({**_sizes(s), "vocab": v} for s, v in zip((old, new), vocabularies, strict=True))
        found.append(Change(old.name, before, after, kept, len(old.blocks)))
    return found


def left_over(parent: Anatomy, clone: Anatomy) -> list[str]:
    """Parts outside the blocks that keep a width which the blocks no longer have: no configuration can say so."""
    found = []
    for old, new in zip(parent.stacks, clone.stacks, strict=True):
        before, after = _sizes(old), _sizes(new)
        gone = {size: name for name, size in before.items() if name in ("hidden", "ffn") and size != after[name]}
        for group in clone.groups.values():
            looked_up = (group.pinned or "").startswith("looked up")
            if group.kind == "other" and group.block is None and group.size in gone and not looked_up:
                weight = group.axes[0].tensor
                found.append(f"{weight} keeps the {group.size} of the parent's {gone[group.size]} size")
    return sorted(set(found))


def _sizes(stack: Stack) -> dict[str, Size]:
    return {name: tuple(size) if isinstance(size, list) else size for name, size in shape(stack).items()}


def _vocabulary(anatomy: Anatomy) -> int | None:
    return next((g.size for g in anatomy.groups.values() if g.kind == KIND), None)
