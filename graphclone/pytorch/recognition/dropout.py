"""Puts dropout, which exports in evaluation mode have lost, back where such models are trained with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.errors import InvalidTarget
from graphclone.pytorch.recognition.rewriting import calls
from graphclone.pytorch.recording import HOLDS, Recording
from graphclone.pytorch.source.expressions import InTraining

if TYPE_CHECKING:
    from graphclone.pytorch.source.placement import Placement


def put_back_dropout(recording: Recording, placement: Placement, share: float) -> None:
    """On attention's probabilities, on what attention and feed-forward give, and on what enters the first block.

    Raises InvalidTarget for a share outside [0, 1) and for a graph whose blocks are not known.
    """
    if not 0 <= share < 1:
        raise InvalidTarget(f"dropout is a share of at least 0 and less than 1; given {share}")
    if not placement.paths:
        raise InvalidTarget("no transformer block was found in the graph: there is no place to put dropout back")
    graph = recording.graph
    for node in list(graph.nodes):
        if calls(node, F.scaled_dot_product_attention):
            node.kwargs = {**node.kwargs, "dropout_p": InTraining(share)}
        elif calls(node, torch.softmax) and len(placement.paths.get(node, ())) > 1:
            _drop(graph, placement, node, share)
    for node in list(graph.nodes):
        path = placement.paths.get(node, ())
        leaves_part = len(path) > 1 and any(len(placement.paths.get(user, ())) < len(path) for user in node.users)
        if leaves_part and placement.roles.get(_weight(node)) in ("o", "down"):
            _drop(graph, placement, node, share)
    for node in placement.streams:
        _drop(graph, placement, node, share)


def _weight(node: fx.Node) -> str:
    weight: Any = node.args[1] if calls(node, F.linear) else None
    return str(weight.target) if isinstance(weight, fx.Node) else ""


def _drop(graph: fx.Graph, placement: Placement, node: fx.Node, share: float) -> None:
    readers = list(node.users)
    with graph.inserting_after(node):
        drops: Any = InTraining()
        dropped = graph.call_function(F.dropout, (node, share, drops))
    dropped.meta |= {key: value for key, value in node.meta.items() if key != HOLDS}
    if node in placement.paths:
        placement.paths[dropped] = placement.paths[node]
    for reader in readers:
        reader.replace_input_with(node, dropped)
