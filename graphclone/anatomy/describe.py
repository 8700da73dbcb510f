"""Turns a trace into an Anatomy: stacks, blocks, parts, groups and the sites where neurons can be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphclone import garbage
from graphclone.anatomy.attention import attentions, raw_attentions
from graphclone.anatomy.blocks import runs
from graphclone.anatomy.feed_forwards import Walk, ends
from graphclone.anatomy.flows import TABLE
from graphclone.anatomy.groups import Group, Grouping, grouping
from graphclone.anatomy.naming import Names
from graphclone.anatomy.normalisations import norms
from graphclone.anatomy.outside import parts_outside
from graphclone.anatomy.parameters import parameters_by_type
from graphclone.anatomy.parts import (
    Anatomy,
    AxisRef,
    Block,
    Ids,
    Linear,
    NeuronGroup,
    Site,
    Stack,
)
from graphclone.anatomy.projections import Projection, projections, scalable
from graphclone.anatomy.segments import Run, Segment
from graphclone.anatomy.sites import embedding_site, norm_sites, outer_norms, projection_sites, unused, with_names
from graphclone.anatomy.trace import Trace, node_key
from graphclone.anatomy.tracing import run, so_far
from graphclone.anatomy.vocabulary import mark
from graphclone.errors import UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.graph import Model

FOLLOWS_CACHE = ("head", "kv_head", "group", "qk_dim", "v_dim")  # kinds whose inputs and outputs are a KV cache


@garbage.kept()
def inspect(model: Model) -> Anatomy:
    """Find the blocks, parts and neuron groups of a parent.

    Raises UnsupportedGraph where the graph holds an operator without a row, or no repeated block.
    """
    return describe(examine(model), model)


def examine(model: Model) -> Grouping:
    """The trace of a model, its ids grouped."""
    return grouping(run(model, tiny_feeds(model), TABLE))


def describe(found: Grouping, model: Model) -> Anatomy:
    """Name everything in a grouped trace."""
    made = projections(found)
    stacks_raw = runs(found, made)
    if not stacks_raw:
        widest = max(found.groups, key=lambda g: len(g.slots), default=None)
        what = f"; the widest neuron group has {widest.size} neurons in {len(widest.slots)} axes" if widest else ""
        raise UnsupportedGraph(
            f"{model.path or 'model'}: no repeated transformer block found in {len(model.graph.nodes)} nodes: "
            f"{so_far(found.trace)}{what}. graphclone cuts stacks of equal blocks that hold attention: what makes a "
            f"block is in docs/extending.md"
        )
    taken: set[str] = set()
    stacks, sites = [], []
    prefixes = ["" if len(stacks_raw) == 1 else f"stack{number}." for number in range(len(stacks_raw))]
    outside = outer_norms(found, stacks_raw, prefixes)
    renamed: dict[str, str] = {}  # of every stack: a group of one may be met again in another
    for number, raw in enumerate(stacks_raw):
        prefix = prefixes[number]
        Names(prefix, None, taken, renamed).give(raw.residual, "residual")
        blocks: list[Block] = []
        for index, segments in enumerate(raw.blocks):
            names = Names(prefix, index, taken, renamed)
            block, block_sites = _block(found, raw, index, segments, made, names)
            blocks.append(block)
            sites += block_sites
        stacks.append(
            Stack(
                prefix.rstrip(".") or "blocks",
                raw.residual.size,
                raw.residual.name,
                tuple(blocks),
                tuple(outside[number][0]),
            )
        )
        sites[:0] = embedding_site(found, raw, prefix)
        sites += outside[number][1]
    mark(found, model, made, taken)
    _name_the_rest(found, [r.residual for r in stacks_raw], made, taken)
    stacks = [replace(stack, blocks=_renamed(stack.blocks, renamed)) for stack in stacks]
    outside_blocks, said = parts_outside(found, stacks_raw, stacks, made)
    return Anatomy(
        parent=lambda: model.sha256,
        stacks=tuple(stacks),
        groups={g.name: _finished(g) for g in found.groups},
        sites=tuple(with_names(found, s) for s in sites),
        linears=tuple(_linear(p) for p in made),
        axes=_axes(found),
        stored=parameters_by_type(found),
        notes=(*model.notes, *said, *_long_blocks(stacks)),
        outside=tuple(outside_blocks),
        found=found,
    )


def _long_blocks(stacks: Sequence[Stack]) -> Iterator[str]:
    """A target for layers counts blocks: where one is several layers of what was exported, it says so."""
    for stack in stacks:
        if stack.layers_each > 1:
            held = f"{stack.layers_each} attentions and feed-forwards"
            yield f"a block of {stack.name} holds {held}: a target for layers counts blocks"


def _block(
    found: Grouping, raw: Run, index: int, segments: Sequence[Segment], made: Sequence[Projection], names: Names
) -> tuple[Block, list[Site]]:
    nodes = [n for s in segments for n in s.nodes]
    keys = {node_key(n) for n in nodes}
    inside = [p for p in made if p.output in keys]
    weighing = raw_attentions(found, nodes, made, [raw.residual])
    seen = [a for a in weighing if a.weighs]
    parts = attentions(found, seen, made, raw.residual, names)
    walk = Walk(nodes, {s.entry for s in segments}, {a.context for a in weighing})
    found_ends = ends(walk, inside, raw.residual, {w for a in parts for w in a.o}, names)
    further = (found_ends.attention.get(a.context, ()) for a in seen)
    parts = [replace(a, o=tuple(dict.fromkeys((*a.o, *more)))) for a, more in zip(parts, further, strict=True)]
    outputs = {w for a in parts for w in a.o}
    sites: list[Site] = []
    for p in inside:
        if raw.residual not in p.writes:
            continue
        role = "attention" if p.weight in outputs else "ffn"
        sites += projection_sites(found, p, unused(sites, f"{names.prefix}blocks.{index}.{role}"), index)
    cuts = {s.exit for s in segments}
    reads = {s.entry for s in segments}
    its_norms = norms(found, nodes, raw.residual, cuts | reads)
    its_norms, norm_places = norm_sites(found, raw, its_norms, f"{names.prefix}blocks.{index}.norm", index)
    sites += norm_places
    block = Block(
        index=index,
        entry=segments[0].entry,
        exit=segments[-1].exit,
        nodes=tuple(node_key(n) for n in nodes),
        attention=tuple(parts),
        feed_forward=tuple(found_ends.feed_forward),
        norms=tuple(its_norms),
        parallel=len([s for s in segments if any(node_key(n) in {p.output for p in inside} for n in s.nodes)]) == 1,
    )
    return block, sites


def _renamed(blocks: Sequence[Block], names: Mapping[str, str]) -> tuple[Block, ...]:
    """Parts name their groups as they are called in the end."""
    return tuple(
        replace(
            block,
            attention=tuple(
                replace(
                    a,
                    head_groups=tuple(names.get(g, g) for g in a.head_groups),
                    qk_dims=tuple((names.get(g, g), n) for g, n in a.qk_dims),
                    v_dims=tuple((names.get(g, g), n) for g, n in a.v_dims),
                )
                for a in block.attention
            ),
            feed_forward=tuple(replace(f, group=names.get(f.group, f.group)) for f in block.feed_forward),
        )
        for block in blocks
    )


def _name_the_rest(found: Grouping, residuals: Sequence[Group], made: Sequence[Projection], taken: set[str]) -> None:
    """Groups outside the blocks: what is as wide as the residual and made from it, or makes it (the first of two
    convolutions before the stack), follows it (tail); the rest is pinned where the caller sees it."""
    widths = {r.size for r in residuals}
    inner: set[int] = {id(r) for r in residuals}

    def follow(known: Sequence[Group], others: Sequence[Group]) -> None:
        for group in others if any(id(g) in inner for g in known) else ():
            if not group.name and group.size in widths and not group.pinned:
                Names("", None, taken).give(group, "tail")
                inner.add(id(group))

    for p in made:
        follow(p.reads, p.writes)
    for p in reversed(made):
        follow(p.writes, p.reads)
    for group in found.groups:
        follows = group in residuals or group.kind == "tail" or group.kind in FOLLOWS_CACHE
        if group.outputs and not follows:
            group.pinned = group.pinned or f"reaches output {group.outputs[0]}"
        if group.inputs and group.kind not in FOLLOWS_CACHE:
            group.pinned = group.pinned or f"comes from input {group.inputs[0]}"
        if not group.name:
            Names("", None, taken).give(group, "other")


def _finished(group: Group) -> NeuronGroup:
    axes = tuple(dict.fromkeys(AxisRef(s.tensor, s.axis) for s in group.slots))
    return NeuronGroup(group.name, group.kind, group.size, axes, group.block, group.pinned)


def _linear(p: Projection) -> Linear:
    reads, writes = tuple(g.name for g in p.reads), tuple(g.name for g in p.writes)
    return Linear(node_key(p.node), p.weight, p.in_axis, p.out_axis, reads, writes, p.input, p.output, scalable(p))


def _axes(found: Grouping) -> dict[AxisRef, tuple[tuple[str, Ids], ...]]:
    trace: Trace = found.trace
    axes: dict[AxisRef, tuple[tuple[str, Ids], ...]] = {}
    for slot in trace.slots:
        ref = AxisRef(slot.tensor, slot.axis)
        if ref not in axes:
            members = found.members((np.arange(slot.start, slot.start + slot.size),))
            axes[ref] = tuple((found.groups[k].name, v) for k, v in members.items())
    return axes
