"""What stands outside the blocks: attentions and feed-forwards that no target reaches.

Those that read a stack's residual stream and write it are of the model's layers, whatever kept them from being found in
a block; a target for what they have would not give the shape that was asked for. One that pools is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.attention import Raw, feeding, raw_attentions
from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.parts import Outside, Stack
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.segments import Run
from graphclone.anatomy.trace import describe, node_key

REFUSED = {
    "attention": "a target for heads, head_dim or layers is refused",
    "ffn": "a target for ffn or layers is refused",
}


def parts_outside(
    found: Grouping, runs: Sequence[Run], stacks: Sequence[Stack], made: Sequence[Projection]
) -> tuple[list[Outside], list[str]]:
    """Attentions and feed-forwards on the residual stream of a stack that are in no block, and whose neurons are not
    those of a part that is in one (layers that share their weights); and what there is to say of all of no block."""
    inside = {node_key(n) for run in runs for segments in run.blocks for s in segments for n in s.nodes}
    streams = list(dict.fromkeys(run.residual for run in runs))
    reached = set(_reached(stacks))
    beside = [p for p in made if p.output not in inside]
    by_output = {p.output: p for p in made}
    attended: list[Group] = []
    parts, notes = [], []
    for node, raw in _attentions(found, inside, made, streams):
        groups = _on_streams(found, raw, streams, made) if raw else []
        attended += groups
        if groups and not {g.name for g in groups} <= reached:
            parts.append(Outside("attention", describe(node)))
        else:
            notes.append(f"the attention at {describe(node)} is in no block: a target for heads leaves it as it is")
    for down in beside:
        ends = {s for s in streams if s in down.writes}
        for group in down.reads[:1]:
            known = group in streams or group in attended or group.name in reached
            fed = () if known or not ends else feeding(found.trace, down.input, found.producers, by_output)
            if any(group in up.writes and ends & set(up.reads) for up in fed):
                parts.append(Outside("ffn", describe(down.node), group.size))
    return parts, [f"{part} is on the residual stream, but in no block: {REFUSED[part.kind]}" for part in parts] + notes


def _attentions(
    found: Grouping, inside: set[str], made: Sequence[Projection], streams: Sequence[Group]
) -> Iterator[tuple[gs.Node, Raw | None]]:
    """Those of no block: the node of the softmax, or of all; and which tensors and axes they have, where known."""
    trace = found.trace
    nodes = [n for n in trace.model.graph.nodes if node_key(n) not in inside]
    raws = raw_attentions(found, nodes, made, streams)
    products = (n for n in trace.notes if n.kind == "product" and not n.inputs[1].static)
    weighed = {n.node.inputs[0].name: n.node.inputs[1].name for n in products}
    for note in trace.notes:
        if node_key(note.node) in inside:
            continue
        values = {weighed[n] for n in _handed_on(note.node) if n in weighed} if note.kind == "softmax" else set()
        if note.kind == "attention":
            values = {t.name for t in (*note.node.inputs, *note.node.outputs) if t.name}
        if values:
            yield note.node, next((raw for raw in raws if raw.tensors[2] in values), None)


def _on_streams(found: Grouping, raw: Raw, streams: Sequence[Group], made: Sequence[Projection]) -> list[Group]:
    """All groups of an attention whose queries come from a stream that it writes, too."""
    queries = feeding(found.trace, raw.tensors[0], found.producers, {p.output: p for p in made})
    read = {s for s in streams if any(s in p.reads for p in queries)}
    heads = [g for factors in raw.heads for g in found.on(factors)]
    values = [g for g in found.on(raw.value_dims) if g not in heads]
    written = any(read & set(p.writes) and set(values) & set(p.reads) for p in made)
    return [*heads, *(g for g in found.on(raw.dims) if g not in heads), *values] if written else []


def _reached(stacks: Sequence[Stack]) -> Iterator[str]:
    """The groups that a target cuts."""
    for block in (block for stack in stacks for block in stack.blocks):
        yield from (f.group for f in block.feed_forward)
        for attention in block.attention:
            yield from (*attention.head_groups, *(name for name, _ in (*attention.qk_dims, *attention.v_dims)))


def _handed_on(node: gs.Node) -> Iterator[str]:
    """A value, and the same in other types and shapes."""
    for tensor in node.outputs:
        yield tensor.name
        for reader in tensor.outputs:
            if reader.op in ("Cast", "Identity", "Reshape"):
                yield from _handed_on(reader)
