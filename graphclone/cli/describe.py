"""Anatomies and plans as tables and as plain values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphclone.cli import show
from graphclone.plan import IDLE

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy, Block, Stack
    from graphclone.plan import Plan

TOO_FEW = "are needed"  # in what a correction notes where the data does not carry it
SHAPE = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn")


def as_dict(anatomy: Anatomy) -> dict[str, Any]:
    """Stacks, groups and parameters as plain values."""
    groups = [
        {"name": g.name, "kind": g.kind, "size": g.size, "axes": [str(a) for a in g.axes], "pinned": g.pinned}
        for g in anatomy.groups.values()
    ]
    stacks = [{"name": s.name, **shape(s), "norms": norms(s), "parts": _parts(s)} for s in anatomy.stacks]
    held = {
        "parameters": anatomy.parameters,
        "stored": dict(anatomy.stored),
        "notes": [*anatomy.notes],
        "parent": anatomy.fingerprint,
    }
    return {**held, "stacks": stacks, "groups": groups}


def remarks(anatomy: Anatomy) -> list[str]:
    """What is said of weights that are not stored as floating point; nothing where all are."""
    integers = {name: count for name, count in anatomy.stored.items() if "int" in name}
    if not integers:
        return list(anatomy.notes)
    shown = ", ".join(f"{count:,} weights are {name}" for name, count in sorted(integers.items()))
    kept = f"{shown}: they are cut as the integers they are, with their scales, and the clone keeps the format"
    return [*anatomy.notes, kept]


def shape(stack: Stack) -> dict[str, Any]:
    """The sizes a target names."""
    from graphclone.anatomy.shapes import shape as sizes

    return sizes(stack)


def norms(stack: Stack) -> str:
    """``RMSNorm (pre)``, or the several kinds that occur."""
    kinds = Counter(f"{n.kind} ({n.placement})" for block in stack.blocks for n in block.norms)
    return ", ".join(sorted(kinds)) or "none"


def _parts(stack: Stack) -> list[str]:
    return sorted({part for block in stack.blocks for part in block_parts(block)})


def block_parts(block: Block) -> list[str]:
    """What a block is made of, in words."""
    attention = [
        f"attention, {a.heads} heads"
        + (f" on {a.kv_heads} KV heads" if a.kv_heads != a.heads else "")
        + f" of {a.head_dim}"
        + (", rotary" if a.rotary else "")
        for a in block.attention
    ]
    forward = [f"feed-forward of {f.ffn}" + (", gated" if f.gated else "") for f in block.feed_forward]
    return attention + forward + (["attention and feed-forward in parallel"] if block.parallel else [])


def print_anatomy(name: str, anatomy: Anatomy) -> None:
    """What `inspect` shows."""
    print(f"{name}: {anatomy.parameters:,} parameters, stacks of blocks: {len(anatomy.stacks)}\n")
    show.table(("stack", *SHAPE, "norms"), [(s.name, *shape(s).values(), norms(s)) for s in anatomy.stacks])
    for stack in anatomy.stacks:
        print(f"\n{stack.name}: {len(stack.blocks)} blocks of " + "; ".join(_parts(stack)))
    for said in remarks(anatomy):
        print(f"\n{said}")
    free = Counter((g.kind, g.size, len(g.axes)) for g in anatomy.groups.values() if g.pinned is None)
    print()
    rows = [(kind, count, size, axes) for (kind, size, axes), count in sorted(free.items())]
    show.table(("can be cut", "groups", "neurons each", "weight axes each"), rows)
    pinned = [(g.name, g.kind, g.size, g.pinned) for g in anatomy.groups.values() if g.pinned is not None]
    if pinned:
        print()
        show.table(("pinned", "kind", "neurons", "why"), pinned)


def planned(anatomy: Anatomy, plan: Plan) -> dict[str, Any]:
    """The plan as plain values, with the counts of what it keeps."""
    kinds: dict[str, dict[str, int]] = {}
    for name, kept in plan.keep.items():
        group = anatomy.groups[name]
        entry = kinds.setdefault(group.kind, {"groups": 0, "found": 0, "kept": 0})
        entry["groups"] += 1
        entry["found"] += group.size
        entry["kept"] += len(kept)
    blocks = {
        stack.name: {
            "found": len(stack.blocks),
            "dropped": list(plan.drop_blocks.get(stack.name, ())),
            "without attention": list(plan.drop_attention.get(stack.name, ())),
            "without feed-forward": list(plan.drop_feed_forward.get(stack.name, ())),
        }
        for stack in anatomy.stacks
    }
    return {"target": dict(plan.target), "method": plan.method, "neurons": kinds, "blocks": blocks}


def print_plan(anatomy: Anatomy, plan: Plan) -> None:
    """What `plan` shows."""
    held = planned(anatomy, plan)
    rows: list[tuple[object, ...]] = [
        (kind, n["groups"], n["found"], n["kept"], n["found"] - n["kept"]) for kind, n in held["neurons"].items()
    ]
    rows += [
        (
            "blocks" if len(held["blocks"]) == 1 else f"blocks of {name}",
            1,
            b["found"],
            b["found"] - len(b["dropped"]),
            len(b["dropped"]),
        )
        for name, b in held["blocks"].items()
    ]
    rows += [
        (
            f"{part}s of {name}",
            1,
            b["found"],
            b["found"] - len(b["dropped"]) - len(b[f"without {part}"]),
            len(b[f"without {part}"]),
        )
        for name, b in held["blocks"].items()
        for part in ("attention", "feed-forward")
        if b[f"without {part}"]
    ]
    show.table(("neurons", "groups", "found", "kept", "dropped"), rows)


def compared(before: Anatomy, after: Anatomy) -> dict[str, Any]:
    """Parent's and clone's shapes side by side."""
    return {
        name: {"parameters": anatomy.parameters, "stacks": [shape(stack) for stack in anatomy.stacks]}
        for name, anatomy in (("parent", before), ("clone", after))
    }


def print_comparison(parent: str, before: Anatomy, clone: str, after: Anatomy) -> None:
    """What `clone` shows."""
    rows = [
        (name, stack.name, *shape(stack).values(), anatomy.parameters)
        for name, anatomy in ((parent, before), (clone, after))
        for stack in anatomy.stacks
    ]
    show.table(("model", "stack", *SHAPE, "parameters"), rows)
    for said in remarks(before):
        print(f"\n{said}")


def warn_of_corrections(metadata: Mapping[str, str], method: str) -> None:
    """Where a correction fell back to the plain slice because too little was measured: once for each reason; and where
    a pass that the method names found nothing to correct."""
    notes = json.loads(metadata.get("graphclone.corrections", "{}"))
    idle = {name: note[IDLE] for name, note in notes.items() if IDLE in note}
    for name in method.split("+"):
        if name in idle:
            show.say(f"graphclone: warning: --method {name} {IDLE}: {idle[name]}")
    notes = {name: note for name, note in notes.items() if name not in idle}
    reasons = Counter(str(note.get("kept the slice", "")) for note in notes.values())
    for reason, count in sorted(reasons.items()):
        if TOO_FEW in reason:
            show.say(f"graphclone: warning: {count} of {len(notes)} weights keep their slices: {reason}")
