"""Feed-forwards of a block: what leads from its stream through neurons of its own back to the stream.

Other products write the stream as well: an adapter behind an attention, a low-rank update beside a projection, a gate
made of the stream, what conditions a norm. Their neurons are nobody's hidden size, and no target is theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group
from graphclone.anatomy.naming import Names
from graphclone.anatomy.parts import FeedForward
from graphclone.anatomy.projections import Projection

OF_ATTENTION = ("head", "kv_head", "group", "qk_dim", "v_dim")  # kinds of neurons that an attention has taken


class Walk:
    """A block's nodes against the edges. ``entries``: values of its stream; ``contexts``: what attentions make."""

    def __init__(self, nodes: Sequence[gs.Node], entries: AbstractSet[str], contexts: AbstractSet[str]) -> None:
        self.makers = {t.name: n for n in nodes for t in n.outputs if t.name}
        self.entries, self.contexts = entries, contexts

    def above(self, start: str, around: Collection[str]) -> set[str]:
        """What a value depends on, up to the stream, to contexts and to ``around``, these included."""
        ends = {*self.entries, *self.contexts, *around}
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                node = self.makers.get(name) if name not in ends else None
                waiting += [t.name for t in node.inputs if t.name] if node is not None else []
        return seen


@dataclass
class Ends:
    """What a block's parts end in, beyond what is known of its attentions.

    ``attention``: by context, weights beside the output projection (a low-rank update of it) or in its place (where
    heads are normed on the way), not behind it: without them all, something of the attention would stay.
    """

    attention: dict[str, list[str]] = field(default_factory=dict)
    feed_forward: list[FeedForward] = field(default_factory=list)


def ends(walk: Walk, inside: Sequence[Projection], residual: Group, outputs: AbstractSet[str], names: Names) -> Ends:
    """The feed-forwards, in graph order, and the further ends of attentions; ``outputs``: weights known as theirs."""
    found = Ends()
    writers = [p for p in inside if residual in p.writes and p.reads]
    known = {p.output for p in writers if p.weight in outputs}
    others = [p for p in writers if p.weight not in outputs and residual not in p.reads]
    beside: list[Projection] = []
    downs: list[tuple[Projection, list[str]]] = []
    for p in others:
        above = walk.above(p.input, {q.output for q in others if q is not p})
        if above.isdisjoint(walk.entries):
            for context in sorted(above & walk.contexts) if above.isdisjoint(known) else ():
                found.attention.setdefault(context, []).append(p.weight)
                known.add(p.output)
        elif _updates(p, others, inside):
            beside.append(p)
        elif p.reads[0].kind not in OF_ATTENTION and any(p.reads[0] in q.writes for q in inside):
            downs.append((p, [p.weight]))
    for p in beside:
        for down, weights in downs:
            weights += [p.weight] if any(set(q.reads) & set(down.reads) for q in _above(p, inside)) else []
    found.feed_forward = [_feed_forward(p, weights, inside, names) for p, weights in downs]
    for p in others:  # neurons of no part: as wide as the stream they may be by chance alone, and do not follow it
        if p.reads[0].kind == "other" and _above(p, inside):
            names.give(p.reads[0], "other")
    return found


def _above(p: Projection, inside: Sequence[Projection]) -> list[Projection]:
    return [q for q in inside if p.reads[0] in q.writes]


def _updates(p: Projection, others: Sequence[Projection], inside: Sequence[Projection]) -> bool:
    """Is it beside another product onto the stream, made from what that one reads: a low-rank update of it?"""
    read = {id(q.reads[0]) for q in others if q is not p}
    made = _above(p, inside)
    return bool(made) and all(any(id(g) in read for g in q.reads) for q in made)


def _feed_forward(down: Projection, weights: list[str], inside: Sequence[Projection], names: Names) -> FeedForward:
    group, up = down.reads[0], _above(down, inside)
    names.give(group, "ffn")
    gated = len({p.weight for p in up}) > 1 or any(p.width_out >= 2 * group.size for p in up)
    return FeedForward(
        group.size, gated, tuple(dict.fromkeys(p.weight for p in up)), tuple(dict.fromkeys(weights)), group.name
    )
