"""Stores each parameter as all its readers view it (transposed, reshaped), so that the views can go."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from graphclone.pytorch.recognition.rewriting import calls, dtype
from graphclone.pytorch.recording import Recording
from graphclone.pytorch.weights import Weight


def absorb_views(recording: Recording) -> Recording:
    """Keep weights as their readers want them: transposed for F.linear, flat for norms and biases."""
    weights = {weight.name: weight for weight in recording.weights}
    for node in list(recording.graph.nodes):
        if node.op == "get_attr" and str(node.target) in weights:
            kept = _kept(weights[str(node.target)], list(node.users))
            if kept is not None:
                weights[kept.name] = kept
                node.meta["example"] = torch.empty(kept.shape, dtype=dtype(node), device="meta")
                for view in list(node.users):
                    view.replace_all_uses_with(node)
    recording.graph.eliminate_dead_code()
    for node in recording.graph.nodes:
        node.meta.pop("extents", None)
    return replace(recording, weights=replace(recording.weights, weights=tuple(weights.values())))


def _kept(weight: Weight, readers: list[fx.Node]) -> Weight | None:
    if readers and all(calls(reader, "t") for reader in readers):
        turned = tuple((name, not t) for name, t in weight.initializers)
        return replace(weight, shape=weight.shape[::-1], initializers=turned)
    flat = all(calls(reader, "reshape") and list(reader.args[1]) == [-1] for reader in readers)  # type: ignore[arg-type]
    if readers and flat:
        return replace(weight, shape=(torch.Size(weight.shape).numel(),))
    return None
