"""Finds attention inside a block: which products are scores, which weights make queries, keys, values and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import NONE, Group, Grouping
from graphclone.anatomy.ids import Factors
from graphclone.anatomy.naming import Names
from graphclone.anatomy.parts import Attention
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import Note, Slot, Trace, describe, node_key

READ = ("attention", "product", "softmax")  # what the trace notes of an attention


@dataclass(frozen=True)
class Raw:
    """An attention as the graph shows it: the tensors that bring queries, keys and values, its axes' factors.

    ``context``: what it makes. ``weighs``: are scores normalised on the way there, and not another's? What takes two
    products otherwise (experts looked up by id) is no attention. ``mixing``: products with weights on that way: they
    mix heads.
    """

    tensors: tuple[str, str, str]
    heads: tuple[Factors, ...]
    dims: Factors
    value_dims: Factors
    head_dim: int
    v_dim: int
    context: str
    weighs: bool = True
    mixing: tuple[Projection, ...] = ()


@dataclass(frozen=True)
class _Weights:
    """What a value holds of scores: which products made them, and what was done to them since."""

    scores: tuple[Note, ...] = ()
    normalised: bool = False
    mixing: tuple[Projection, ...] = ()


def raw_attentions(
    found: Grouping, nodes: Sequence[gs.Node], projections: Sequence[Projection], streams: Sequence[Group]
) -> list[Raw]:
    """Attentions among ``nodes``, in graph order: fused operators, or pairs of products (scores over neurons, context
    over tokens) of which the second reads what the first gave.

    Neurons are what projections write, those of ``streams`` excepted; tokens may carry ids too, from a position table.
    """
    names = {node_key(n) for n in nodes}
    notes = [n for n in found.trace.notes if n.kind in READ and node_key(n.node) in names]
    order = {id(note): k for k, note in enumerate(notes)}
    holding_last = sorted(notes, key=lambda n: n.kind == "attention")  # such an operator may be noted as a product, too
    by_node = {node_key(n.node): n for n in holding_last}
    by_output = {p.output: p for p in projections}
    written = {id(g) for p in projections for g in p.writes}
    held: dict[str, _Weights] = {}
    used: set[int] = set()
    result: list[tuple[int, Raw]] = []

    def over_neurons(factors: Factors) -> bool:
        return any(id(g) in written for g in found.on(factors))

    for node in nodes:
        note, here = by_node.get(node_key(node)), _joined(node, held)
        if note is not None and note.kind == "attention":
            result.append((order[id(note)], _fused(note)))
            continue
        if note is not None and note.kind == "softmax":
            here = replace(here, normalised=True)
        elif note is not None and any(v.static or v.data is not None for v in note.inputs):
            mixes = by_output.get(node_key(node)) if here.scores else None
            here = replace(here, mixing=(*here.mixing, mixes)) if mixes and mixes.reads else here
        elif note is not None:
            a, b = note.inputs
            first = held.get(node.inputs[0].name, _Weights())
            if over_neurons(a.axis(-1)):
                here = _Weights() if any(g in streams for g in found.on(a.axis(-1))) else _Weights((note,))
            elif first.scores and over_neurons(b.axis(-1)):
                score = min(first.scores, key=lambda n: order[id(n)])
                first = replace(first, normalised=first.normalised and id(score) not in used)  # values may be in halves
                result.append((order[id(note)], _decomposed(found.trace, score, note, first)))
                used |= {id(n) for n in first.scores}
                here = _Weights()
        if here.scores:
            held |= {t.name: here for t in node.outputs if t.name}
    return [raw for _, raw in sorted(result, key=lambda r: r[0])]


def _joined(node: gs.Node, held: Mapping[str, _Weights]) -> _Weights:
    read = [held[t.name] for t in node.inputs if t.name in held]
    return _Weights(
        tuple({id(n): n for w in read for n in w.scores}.values()),
        any(w.normalised for w in read),
        tuple(dict.fromkeys(p for w in read for p in w.mixing)),
    )


def _fused(note: Note) -> Raw:
    q, _, v = note.inputs
    tensors = [t.name for t in note.node.inputs[:3]]
    if len(tensors) < 3 or not tensors[1] or note.node.op == "Attention" and note.node.domain:
        tensors = [note.node.outputs[0].name if note.node.domain and note.node.op == "Attention" else tensors[0]] * 3
    brings = (tensors[0], tensors[1], tensors[2])
    return Raw(brings, (q.axis(2),), q.axis(3), v.axis(3), q.shape[3], v.shape[3], node_key(note.node))


def _decomposed(trace: Trace, score: Note, context: Note, weights: _Weights) -> Raw:
    out = trace.values[node_key(score.node)]
    (a, _), (_, v) = score.inputs, context.inputs
    return Raw(
        (score.node.inputs[0].name, score.node.inputs[1].name, context.node.inputs[1].name),
        out.factors[:-2],
        a.axis(-1),
        v.axis(-1),
        a.shape[-1],
        v.shape[-1],
        node_key(context.node),
        weights.normalised,
        weights.mixing,
    )


def attentions(
    found: Grouping, raws: Sequence[Raw], projections: Sequence[Projection], residual: Group, names: Names
) -> list[Attention]:
    """Every attention of a block, in graph order; its groups are named on the way.

    ``projections`` are the whole graph's: the keys and values of a cross-attention are made beside the stream.
    """
    producer = found.producers
    by_output = {p.output: p for p in projections}
    result = []
    for raw in raws:
        fed = (feeding(found.trace, name, producer, by_output) for name in raw.tensors)
        q, k, v = ([p for p in made if p.reads] for made in fed)  # a table of angles times positions reads no neurons
        head_groups = [g for factors in raw.heads for g in found.on(factors)]
        dims = [g for g in found.on(raw.dims) if g not in head_groups]
        value_dims = [g for g in found.on(raw.value_dims) if g not in head_groups and g is not residual]
        for p in raw.mixing:
            for group in (*p.reads, *p.writes):
                group.pinned = group.pinned or f"mixed with others by {describe(p.node)}"
        kv_groups = _of_keys(found, head_groups, [*dims, *value_dims], {p.weight for p in k})
        alone = kv_groups == head_groups
        for group in head_groups:
            names.give(group, "head" if alone else "kv_head" if group in kv_groups else "group")
        for kind, members in (("qk_dim", dims), ("v_dim", value_dims)):
            for group in members:
                names.give(group, kind)
        o = [p for p in projections if residual in p.writes and any(g in value_dims for g in p.reads)]
        result.append(
            Attention(
                heads=_count_heads(found.trace, raw.heads),
                kv_heads=int(np.prod([g.size for g in kv_groups], dtype=np.int64)),
                head_dim=raw.head_dim,
                v_dim=raw.v_dim,
                rotary=0 < sum(g.size for g in dims) < raw.head_dim,
                q=_weights(q),
                k=_weights(k),
                v=_weights(v),
                o=_weights(o),
                head_groups=tuple(g.name for g in head_groups),
                qk_dims=_held(found, raw.dims, dims),
                v_dims=_held(found, raw.value_dims, value_dims),
            )
        )
    return result


def _held(found: Grouping, factors: Factors, groups: Sequence[Group]) -> tuple[tuple[str, int], ...]:
    """Each group along an axis, and how many positions of the axis are its neurons': two for a rotary pair."""
    members = found.members(factors)
    return tuple((g.name, int(np.count_nonzero(members[found.groups.index(g)] != NONE))) for g in groups)


def _of_keys(found: Grouping, heads: Sequence[Group], dims: Sequence[Group], weights: set[str]) -> list[Group]:
    """The head groups that the keys have too. Packed with the queries' columns, theirs are in the same weight, where
    the queries of one KV head number fewer columns than the KV heads; columns of no head at all are the one KV head's,
    unless heads are another axis of that weight.
    """
    slots = {slot for g in (*heads, *dims) for slot in g.slots if slot.tensor in weights}
    belongs = [{id(g): _columns(found, g, slot) for g in (*heads, *dims)} for slot in slots]
    by_head = {slot.tensor for slot, held in zip(slots, belongs, strict=True) if any(held[id(g)].any() for g in heads)}
    for slot, held in zip(slots, belongs, strict=True):
        of_dims, of_heads = (np.any([held[id(g)] for g in groups], axis=0) for groups in (dims, heads))
        apart = slot.tensor in by_head and not np.any(of_heads)
        if np.any(of_dims & ~of_heads) and not apart:
            return []
    columns = [sum(int(np.count_nonzero(held[id(g)])) for held in belongs) for g in heads]
    most = max(columns, default=0)
    return [g for g, count in zip(heads, columns, strict=True) if count and count == most]


def _columns(found: Grouping, group: Group, slot: Slot) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions of a weight's axis belong to a neuron of the group."""
    held = found.members((np.arange(slot.start, slot.start + slot.size),)).get(found.groups.index(group))
    return np.zeros(slot.size, np.bool_) if held is None else held != NONE


def _count_heads(trace: Trace, axes: Sequence[Factors]) -> int:
    """Different combinations of ids along the outer axes: the batch, which carries none, does not count."""
    total = 1
    for factors in axes:
        resolved = trace.ids.resolve(factors)
        if resolved:
            total *= len(np.unique(np.stack(resolved), axis=1).T)
    return total


def feeding(
    trace: Trace, name: str, producer: dict[str, gs.Node], by_output: dict[str, Projection]
) -> list[Projection]:
    """The projections from which a value is made, nearest first; sizes and scales, which carry no neurons, are not
    followed."""
    found: list[Projection] = []
    stack, seen = [name], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in by_output:  # the first step back may be the attention itself, where it holds its projection
            found.append(by_output[current])
        elif current in producer:
            read = [t.name for t in producer[current].inputs if isinstance(t, gs.Variable)]
            made = [(n, trace.values.get(n)) for n in read]
            stack.extend(n for n, value in made if value is None or (value.labelled and value.data is None))
    return found


def _weights(projections: Sequence[Projection]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.weight for p in projections))
