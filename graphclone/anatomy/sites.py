"""Names the sites of a parent: tensors whose activations, when measured, say how much neurons matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Grouping
from graphclone.anatomy.normalisations import norms
from graphclone.anatomy.parts import Norm, Site
from graphclone.anatomy.projections import Projection, axis_of
from graphclone.anatomy.segments import Run
from graphclone.anatomy.trace import node_key


def projection_sites(found: Grouping, p: Projection, name: str, block: int) -> list[Site]:
    """What a projection onto the stream reads (inner) and adds (writer, its bias included)."""
    value, axis = p.output, p.output_axis
    tensor = p.node.outputs[0]
    followers = tensor.outputs
    if (
        len(followers) == 1
        and followers[0].op == "Add"
        and any(isinstance(t, gs.Constant) for t in followers[0].inputs)
    ):
        value = node_key(followers[0])
    return [
        _site(found, f"{name}.out", "writer", value, axis, block),
        _site(found, f"{name}.in", "inner", p.input, p.input_axis, block),
    ]


def unused(sites: Sequence[Site], name: str) -> str:
    """``<name>``, or ``<name>.1`` on where a block has several such parts (a decoder's cross-attention)."""
    taken = sum(site.kind == "writer" and site.name.startswith(name) for site in sites)
    return f"{name}.{taken}" if taken else name


def embedding_site(found: Grouping, raw: Run, prefix: str) -> list[Site]:
    """What enters the first block was written by the embedding."""
    entry = raw.blocks[0][0].entry
    axis = axis_of(found.trace.values[entry], found, raw.residual)
    return [] if axis is None else [_site(found, f"{prefix}embedding.out", "writer", entry, axis, None)]


def norm_sites(
    found: Grouping, raw: Run, made: Sequence[Norm], name: str, block: int | None
) -> tuple[list[Norm], list[Site]]:
    """The norms with the names of their sites, ``<name>.0`` on, and these; norms of queries and keys have none."""
    named: list[Norm] = []
    sites: list[Site] = []
    for norm in made:
        if norm.placement != "qk":
            # what a summing operator normalises may have no name in the graph: it looks like what it writes
            known = norm.input if norm.input in found.trace.values else norm.output
            axis = axis_of(found.trace.values[known], found, raw.residual)
            if axis is not None:
                site = _site(found, f"{name}.{len(sites)}", "norm", norm.input, axis, block, known)
                norm = replace(norm, site=site.name)
                sites.append(site)
        named.append(norm)
    return named, sites


def outer_norms(found: Grouping, runs: Sequence[Run], prefixes: Sequence[str]) -> list[tuple[list[Norm], list[Site]]]:
    """For each stack its norms outside all blocks: ``embedding.norm`` before the first, ``norm`` after the last.

    A norm belongs to the stack whose end it is made from, or else to the one that it leads to.
    """
    inside = {node_key(n) for run in runs for block in run.blocks for s in block for n in s.nodes}
    ends = {run.blocks[-1][-1].exit: k for k, run in enumerate(runs)}
    begins = {run.blocks[0][0].entry: k for k, run in enumerate(runs)}
    outside = [n for n in found.trace.model.graph.nodes if node_key(n) not in inside]
    result = []
    for k, run in enumerate(runs):
        before, after = [], []
        for norm in norms(found, outside, run.residual, set()):
            node = found.producers[norm.output]
            if norm.placement == "qk":
                continue
            if (end := _nearest(node, ends, back=True)) is not None:
                after += [replace(norm, placement="final")] if end == k else []
            elif _nearest(node, begins, back=False) == k:
                before.append(replace(norm, placement="embedding"))
        named: list[Norm] = []
        sites: list[Site] = []
        for made, name in ((before, f"{prefixes[k]}embedding.norm"), (after, f"{prefixes[k]}norm")):
            with_names, held = norm_sites(found, run, made, name, None)
            if len(held) == 1:  # the only one needs no number
                with_names = [replace(n, site=name if n.site else "") for n in with_names]
                held = [replace(held[0], name=name)]
            named += with_names
            sites += held
        result.append((named, sites))
    return result


def _nearest(start: gs.Node, wanted: dict[str, int], *, back: bool) -> int | None:
    """Breadth first from a node, along or against the edges: which wanted tensor is met first."""
    queue, seen = [start], {node_key(start)}
    for node in queue:
        for tensor in node.inputs if back else node.outputs:
            if tensor.name in wanted:
                return wanted[tensor.name]
            for other in tensor.inputs if back else tensor.outputs:
                if node_key(other) not in seen:
                    seen.add(node_key(other))
                    queue.append(other)
    return None


def _site(
    found: Grouping, name: str, kind: str, value: str, axis: int, block: int | None, like: str | None = None
) -> Site:
    traced = found.trace.values[like or value]
    members = {str(k): v for k, v in found.members(traced.axis(axis)).items()}
    return Site(name, kind, value, axis, traced.shape[axis], block, members)


def with_names(found: Grouping, site: Site) -> Site:
    """Members by the names that the groups have in the end."""
    return replace(site, members={found.groups[int(k)].name: v for k, v in site.members.items()})
