"""Facts of a parent and of its clones, read from their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Block, Stack
from graphclone.anatomy.shapes import shape
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.report.facts import Array, CloneFacts, Facts, Influence, Kept, Part, Sheet, StackFacts, Verdict
from graphclone.report.maps import BY_WEIGHTS, kept_share, maps, scores
from graphclone.statistics import depth, importance
from graphclone.statistics.store import Statistics
from graphclone.verification import Report, claims
from graphclone.version import __version__

DEFAULT = "equal-vote"  # the importance that `plan` ranks by where nothing else is asked for


@dataclass(frozen=True)
class Subject:
    """An ONNX file, or the one of a folder, opened, and its anatomy. path: as given."""

    path: Path
    model: Model
    anatomy: Anatomy

    @classmethod
    def open(cls, path: str | Path) -> Subject:
        """Raises BadModel, UnsupportedGraph."""
        model = graph.load(path)
        model.prepare_sha256()
        return cls(Path(path), model, inspect(model))

    @property
    def bytes(self) -> int:
        """Of the file, and of those beside it that hold its weights."""
        return sum(file.stat().st_size for file in (self.model.path or self.path, *self.model.external_files))

    def sheet(self, name: str, role: str) -> Sheet:
        """Its line in the table of models."""
        shapes = [shape(stack) for stack in self.anatomy.stacks]
        return Sheet(name, role, self.anatomy.parameters, self.bytes, shapes, self.anatomy.fingerprint)


def parent_facts(
    parent: Subject, stats: Statistics | None, clones: Mapping[str, Plan]
) -> tuple[Facts, dict[str, Array]]:
    """The page of a parent, and its neurons' scores; ``clones`` are marked in its maps. Raises InvalidTarget."""
    anatomy = parent.anatomy
    name = _importance(stats, clones)
    found = scores(name, anatomy, parent.model, stats)
    free = Counter((g.kind, g.size, len(g.axes)) for g in anatomy.groups.values() if g.pinned is None)
    facts = Facts(
        title=parent.path.name,
        parent=parent.sheet(parent.path.name, "parent"),
        stacks=tuple(_stack(stack) for stack in anatomy.stacks),
        cuttable=tuple((kind, count, size, axes) for (kind, size, axes), count in sorted(free.items())),
        pinned=tuple((g.name, g.kind, g.size, g.pinned) for g in anatomy.groups.values() if g.pinned is not None),
        parts=tuple(_parts(anatomy, None, found)),
        notes=anatomy.notes,
        scored_by=f"{name}: {importance.find(name)[0].formula}",
        measured="" if stats is None else _measured(stats),
        maps=maps(anatomy, parent.model, stats, found, clones),
        influence=() if stats is None else tuple(_influences(anatomy, stats)),
        version=__version__,
    )
    return facts, found


def _importance(stats: Statistics | None, clones: Mapping[str, Plan]) -> str:
    """What the clones were ranked by, where it can be had here."""
    named = next(iter(clones.values())).importance if clones else DEFAULT
    if stats is None and importance.find(named)[0].needs:
        return BY_WEIGHTS
    return named


def _measured(stats: Statistics) -> str:
    return f"{stats.count:,} tokens in {stats.batches:,} batches of {', '.join(str(part) for part in stats.data)}"


def _influences(anatomy: Anatomy, stats: Statistics) -> list[Influence]:
    found: list[Influence] = []
    for stack in anatomy.stacks:
        try:
            values = depth.influences(anatomy, stack, stats)
        except InvalidTarget:  # statistics of a run that did not look at blocks
            continue
        found += [Influence(stack.name, block.index, v) for block, v in zip(stack.blocks, values, strict=True)]
    return found


def _stack(stack: Stack) -> StackFacts:
    kinds = Counter(_drawn(block) for block in stack.blocks)
    around = tuple(f"{norm.kind} ({norm.placement})" for norm in stack.norms)
    return StackFacts(stack.name, stack.hidden, len(stack.blocks), tuple(kinds.items()), around)


def _drawn(block: Block) -> tuple[str, ...]:
    """The parts of a block in the order in which a stream passes them."""
    norms = [f"{norm.kind} ({norm.placement})" for norm in block.norms if norm.placement != "qk"]
    inner = [f"{norm.kind} of queries and keys" for norm in block.norms if norm.placement == "qk"][:1]
    parts = [
        f"attention: {a.heads} heads"
        + (f" on {a.kv_heads} KV heads" if a.kv_heads != a.heads else "")
        + f" of {a.head_dim}"
        + (", rotary" if a.rotary else "")
        + (f", {inner[0]}" if inner else "")
        for a in block.attention
    ] + [f"feed-forward: {f.ffn:,} neurons" + (", gated" if f.gated else "") for f in block.feed_forward]
    if block.parallel and len(parts) > 1:
        return (*norms, " + ".join(parts) + " (in parallel)")
    post = bool(block.norms) and any(norm.placement == "post" for norm in block.norms)
    made: list[str] = []
    for number, part in enumerate(parts):
        near = norms[number : number + 1] if len(norms) >= len(parts) else norms[:1] if number == 0 else []
        made += [part, *near] if post else [*near, part]
    return (*made, *norms[len(parts) :])


def _parts(anatomy: Anatomy, plan: Plan | None, found: Mapping[str, Array]) -> list[Part]:
    keep = {} if plan is None else plan.keep
    made: list[Part] = []
    for stack in anatomy.stacks:
        gone = frozenset(() if plan is None else plan.drop_blocks.get(stack.name, ()))
        deaf = gone | frozenset(() if plan is None else plan.drop_attention.get(stack.name, ()))
        plain = gone | frozenset(() if plan is None else plan.drop_feed_forward.get(stack.name, ()))
        for block in stack.blocks:
            for a in block.attention:
                kept = a.heads
                for group in a.head_groups:
                    size = anatomy.groups[group].size
                    kept = kept * len(keep.get(group, range(size))) // max(size, 1)
                made.append(Part(stack.name, block.index, "attention", a.heads, 0 if block.index in deaf else kept))
            for f in block.feed_forward:
                dropped = block.index in plain
                count = 0 if dropped else len(keep.get(f.group, range(f.ffn)))
                share = 0.0 if dropped else kept_share(found.get(f.group), keep.get(f.group))
                made.append(Part(stack.name, block.index, "feed-forward", f.ffn, count, share))
    return made


def clone_plan(clone: Model) -> tuple[Plan, str]:
    """The plan that a clone carries, and its method. Raises VerificationFailed for a file that carries none."""
    held = claims.read(clone)
    return held.plan, held.method


def clone_facts(
    parent: Subject, clone: Subject, name: str, plan: Plan, found: Mapping[str, Array], report: Report | None
) -> CloneFacts:
    """What became of the parent. Raises InvalidTarget for a plan of another parent."""
    anatomy = parent.anatomy
    if plan.parent != anatomy.fingerprint:
        raise InvalidTarget(
            f"{clone.path}: a clone of another parent (sha256 {plan.parent[:12]}, {parent.path} is "
            f"{anatomy.fingerprint[:12]})"
        )
    return CloneFacts(
        name=name,
        sheets=(clone.sheet(name, "clone"),),
        parts=tuple(_parts(anatomy, plan, found)),
        kept=tuple(_kept(anatomy, plan)),
        dropped=plan.drop_blocks,
        repeated=plan.repeat_blocks,
        method=plan.method,
        importance=plan.importance,
        plan=plan.to_json(),
        checks=() if report is None else verdicts(report.to_dict()["checks"]),
    )


def _kept(anatomy: Anatomy, plan: Plan) -> list[Kept]:
    """By kind of group, then the blocks of each stack. Groups of blocks that go are not counted."""
    made: dict[str, Kept] = {}
    gone = {(name, block) for name, blocks in plan.drop_blocks.items() for block in blocks}
    single = len(anatomy.stacks) == 1
    for group in anatomy.groups.values():
        if group.pinned is not None and group.name not in plan.keep:
            continue
        home = anatomy.stacks[0].name if single else group.name.partition(".")[0]
        if group.block is not None and (home, group.block) in gone:
            continue
        one = made.get(group.kind, Kept(group.kind, 0, 0, 0))
        count = len(plan.keep.get(group.name, range(group.size)))
        made[group.kind] = replace(one, groups=one.groups + 1, found=one.found + group.size, kept=one.kept + count)
    for stack in anatomy.stacks:
        what = "blocks" if single else f"blocks of {stack.name}"
        size = len(stack.blocks)
        made[what] = Kept(what, 1, size, size - len(plan.drop_blocks.get(stack.name, ())))
    return list(made.values())


def verdicts(checks: list[dict[str, Any]]) -> tuple[Verdict, ...]:
    """Rows of the table of checks from a report's plain values."""
    known = ("name", "verdict", "detail", "value", "tolerance")
    return tuple(Verdict(**{key: row[key] for key in known if key in row}) for row in checks)
