"""Weights kept in half precision, each behind a Cast: the cast becomes part of how the weight is kept.

From here on such a weight counts as what it is computed with, so that products, norms and embeddings are recognised as
in any other graph; whoever reads it widens it (source/narrow.py). Widening is exact, so nothing is rounded twice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from graphclone.pytorch.recognition.rewriting import Rewriter, calls, dtype
from graphclone.pytorch.recording import Recording

NARROW = (torch.bfloat16, torch.float16)
WIDE = torch.float32


def absorb_casts(recording: Recording) -> Recording:
    """Let every weight that is read through casts to float32 alone be float32 in the graph; ``computed`` notes it."""
    rewriter = Rewriter(recording.graph, recording.tables)
    weights = {weight.name: weight for weight in recording.weights}
    for node in list(recording.graph.nodes):
        if node.op != "get_attr" or str(node.target) not in weights or dtype(node) not in NARROW:
            continue
        turned = [user for user in node.users if calls(user, "t")]  # the transposed copy of a tie
        casts = [user for view in (node, *turned) for user in view.users if user not in turned]
        if not casts or not all(calls(cast, "to") and dtype(cast) == WIDE for cast in casts):
            continue
        for view in (node, *turned):
            view.meta["example"] = view.meta["example"].to(WIDE)
        for cast in casts:
            source = cast.args[0]
            assert isinstance(source, fx.Node)
            rewriter.replace(cast, source)
        weights[str(node.target)] = replace(weights[str(node.target)], computed=WIDE)
    rewriter.finish()
    _in_order_of_use(recording.graph, {name for name, weight in weights.items() if weight.computed is not None})
    return replace(recording, weights=replace(recording.weights, weights=tuple(weights.values())))


def _in_order_of_use(graph: fx.Graph, widened: set[str]) -> None:
    """Weights stand where they are read, as in any other graph, not where they were cast: names are given in order."""
    held = [node for node in graph.nodes if node.op == "get_attr" and str(node.target) in widened]
    for moved in ([user for node in held for user in node.users if calls(user, "t")], held):
        place = {node: index for index, node in enumerate(graph.nodes)}
        first = {node: min(node.users, key=place.__getitem__) for node in moved}
        for node in sorted(moved, key=lambda n: (place[first[n]], first[n].all_input_nodes.index(n))):
            first[node].prepend(node)
