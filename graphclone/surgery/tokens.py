"""Renumbers token ids that the graph itself names (a padding id, say): the k-th token kept is the clone's token k."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy
from graphclone.anatomy.trace import node_key
from graphclone.anatomy.vocabulary import KIND, Vocabulary, find
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.surgery.slice_weights import Slices


def count_tokens_anew(made: Model, parent: Model, anatomy: Anatomy, plan: Plan, slices: Slices) -> None:
    """Rewrite, in place, the constants of ``made`` that stand for token ids; its embedding and head are cut already.

    Raises InvalidTarget for a plan that cuts embedding and head differently, that changes the order of tokens, or that
    drops one which the graph names.
    """
    kept = {
        name: ids for name, ids in plan.keep.items() if name in anatomy.groups and anatomy.groups[name].kind == KIND
    }
    if not kept or all(len(ids) == anatomy.groups[name].size for name, ids in kept.items()):
        return
    vocabulary = find(parent, anatomy)
    tokens = _checked(vocabulary, kept)
    nodes = {node_key(node): node for node in made.graph.nodes}
    for named in vocabulary.named:
        node = nodes.get(named.node)
        if node is not None and any(i >= 0 for i in named.ids):
            old = node.inputs[named.input]
            values = np.asarray(old.values)
            new = np.where(values < 0, values, np.searchsorted(tokens, values)).astype(values.dtype)
            name = "graphclone_token"
            while name in slices.claims or name in slices.reserved:
                name += "_"
            node.inputs[named.input] = gs.Constant(name, new)
            slices.claims[name] = {"parent": old.name, "take": [None] * values.ndim, "tokens": True}


def _checked(vocabulary: Vocabulary, kept: dict[str, tuple[int, ...]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    lists = set(kept.values())
    if len(lists) > 1 or set(kept) != set(vocabulary.groups):
        raise InvalidTarget(f"plan: {', '.join(vocabulary.groups)} are one vocabulary: keep the same tokens in each")
    tokens = np.asarray(lists.pop(), np.int64)
    if (np.diff(tokens) <= 0).any():
        raise InvalidTarget("plan: tokens keep their order: list the ids ascending")
    if missing := sorted(set(vocabulary.needed) - set(tokens.tolist())):
        raise InvalidTarget(f"plan: the graph itself names the token {missing[0]}: keep it")
    return tokens
