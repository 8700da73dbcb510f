"""Naming attention inside a block: which products are scores, which weights make queries, keys, values and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.naming import Names
from graphclone.anatomy.parts import Attention
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import Trace, Value, node_key


@dataclass(frozen=True)
class Contraction:
    """Scores (queries x keys, over head_dim) or context (probabilities x values, over tokens)."""

    node: gs.Node
    left: str
    right: str
    heads: Value  # the product's output, whose outer axes are the heads
    width: int


def contractions(trace: Trace, nodes: Sequence[gs.Node]) -> tuple[list[Contraction], list[Contraction]]:
    """The score and context products among ``nodes``."""
    names = {node_key(n) for n in nodes}
    scores, contexts = [], []
    for note in trace.notes:
        if note.kind != "product" or node_key(note.node) not in names or len(note.inputs) != 2:
            continue
        a, b = note.inputs
        if a.static or b.static or a.data is not None or b.data is not None:
            continue
        out = trace.values[node_key(note.node)]
        left, right = note.node.inputs[0].name, note.node.inputs[1].name
        if trace.ids.resolve(a.axis(-1)):
            scores.append(Contraction(note.node, left, right, out, a.shape[-1]))
        elif trace.ids.resolve(b.axis(-1)):
            contexts.append(Contraction(note.node, left, right, out, b.shape[-1]))
    return scores, contexts


def attentions(
    found: Grouping, nodes: Sequence[gs.Node], projections: Sequence[Projection], residual: Group, names: Names
) -> list[Attention]:
    """Every attention of a block, in graph order; its groups are named on the way."""
    trace = found.trace
    producer = {t.name: n for n in nodes for t in n.outputs}
    by_output = {p.output: p for p in projections}
    result = []
    for score, context in zip(*contractions(trace, nodes), strict=False):
        q, k, v = (feeding(name, producer, by_output) for name in (score.left, score.right, context.right))
        head_groups = _head_groups(found, score)
        dims = [g for g in found.on(trace.values[score.left].axis(-1)) if g not in head_groups]
        value_dims = [g for g in found.on(context.heads.axis(-1)) if g not in head_groups]
        in_keys = {p.weight for p in k}
        kv_groups = [g for g in head_groups if g.tensors & in_keys]
        for group in head_groups:
            alone = len(head_groups) == 1 and bool(kv_groups)
            names.give(group, "head" if alone else "kv_head" if group in kv_groups else "group")
        for kind, members in (("qk_dim", dims), ("v_dim", value_dims)):
            for group in members:
                names.give(group, kind)
        o = [p for p in projections if residual in p.writes and any(g in value_dims for g in p.reads)]
        result.append(
            Attention(
                heads=_count_heads(trace, score),
                kv_heads=int(np.prod([g.size for g in kv_groups], dtype=np.int64)),
                head_dim=score.width,
                v_dim=context.width,
                rotary=0 < sum(g.size for g in dims) < score.width,
                q=_weights(q),
                k=_weights(k),
                v=_weights(v),
                o=_weights(o),
                head_groups=tuple(g.name for g in head_groups),
            )
        )
    return result


def _head_groups(found: Grouping, score: Contraction) -> list[Group]:
    return [g for factors in score.heads.factors[:-2] for g in found.on(factors)]


def _count_heads(trace: Trace, score: Contraction) -> int:
    """Different combinations of ids along the outer axes: the batch, which carries none, does not count."""
    total = 1
    for factors in score.heads.factors[:-2]:
        resolved = trace.ids.resolve(factors)
        if resolved:
            total *= len(np.unique(np.stack(resolved), axis=1).T)
    return total


def feeding(name: str, producer: dict[str, gs.Node], by_output: dict[str, Projection]) -> list[Projection]:
    """The projections from which a value is made, nearest first."""
    found: list[Projection] = []
    stack, seen = [name], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in by_output:
            found.append(by_output[current])
        elif current in producer:
            stack.extend(t.name for t in producer[current].inputs if isinstance(t, gs.Variable))
    return found


def _weights(projections: Sequence[Projection]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.weight for p in projections))
