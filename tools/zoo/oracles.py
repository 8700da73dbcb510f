"""What has to be true of any clone, whatever the architecture: exact up to rounding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from graphclone.verification.sessions import open_session

Array = np.ndarray[Any, Any]
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}  # of the largest output
PERMUTED = ("residual", "tail", "ffn", "head", "kv_head", "group", "v_dim")
FOLLOWS = re.compile("present|hidden|pooler")  # outputs that follow the order of heads or of the residual stream
EXTENTS = ((1, 3), (2, 7), (3, 11))  # batch, length


def permuted(model: Model, anatomy: Anatomy) -> str:
    """The parent with all its neurons in another order answers the same."""
    rng = np.random.default_rng(1)
    keep = {
        g.name: tuple(int(i) for i in rng.permutation(g.size))
        for g in anatomy.groups.values()
        if not g.pinned and g.kind in PERMUTED
    }
    moved = clone(model, anatomy, Plan(parent=anatomy.fingerprint, keep=keep, method="none"))
    before, after = open_session(model, threads=1), open_session(moved, threads=1)
    worst = 0.0
    for batch, length in EXTENTS:
        feeds = tiny_feeds(model, batch, length)
        own = tiny_feeds(moved, batch, length)
        worst = max(worst, difference(before.run(feeds), after.run({**own, **_alike(feeds, own)})))
    limit = tolerance(model)
    assert worst <= limit, f"permuting {len(keep)} groups changes the outputs by {worst:.2e} (limit {limit})"
    return f"{worst:.1e}"


def broken(model: Model) -> str:
    """Why ONNX Runtime does not run the parent at some batch and length, or nothing."""
    try:
        session = open_session(model, threads=1)
        for batch, length in EXTENTS:
            session.run(tiny_feeds(model, batch, length))
    except UnsupportedGraph as reason:
        return str(reason)
    return ""


def _alike(feeds: Mapping[str, Array], own: Mapping[str, Array]) -> dict[str, Array]:
    return {n: a for n, a in feeds.items() if n in own and own[n].shape == a.shape}


def tolerance(model: Model) -> float:
    """By the coarsest float type among the weights."""
    types = {str(a.dtype) for a in model.constants().values()}
    return max(TOLERANCE[t] for t in types & TOLERANCE.keys())


def difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    """Largest |difference| over largest |expected|, over all outputs; those that a permutation
    reorders (caches, hidden states) are compared sorted."""
    worst = 0.0
    for name, wanted in expected.items():
        found = actual[name]
        if wanted.shape != found.shape:
            return float("inf")
        a, b = wanted.astype(np.float64), found.astype(np.float64)
        if not a.size:
            continue
        if FOLLOWS.search(name):
            a, b = np.sort(a, axis=None), np.sort(b, axis=None)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-12))
    return worst


def stepping(model: Model, length: int = 6, first: int = 3) -> str:
    """Prefill then one token at a time gives what one full pass gives."""
    session = open_session(model, threads=1)
    full = tiny_feeds(model, 2, length)
    ids = full["input_ids"]
    whole = session.run(full)
    logits = next(iter(whole))
    caches = [n for n in full if "past" in n]
    presents = [n for n in whole if "present" in n]
    assert len(caches) == len(presents), f"{len(caches)} cache inputs, {len(presents)} cache outputs"
    held = {n: full[n] for n in caches}
    start, worst = 0, 0.0
    for end in range(first, length + 1):
        step = tiny_feeds(model, 2, end - start)
        feeds = {**step, **held, "input_ids": ids[:, start:end]}
        if "attention_mask" in feeds:
            feeds["attention_mask"] = np.ones((2, end), full["attention_mask"].dtype)
        if "position_ids" in feeds:
            feeds["position_ids"] = np.broadcast_to(np.arange(start, end), (2, end - start)).astype(np.int64)
        made = session.run(feeds)
        wanted = whole[logits][:, start:end]
        worst = max(worst, float(np.abs(made[logits] - wanted).max()) / float(np.abs(whole[logits]).max()))
        held = {past: made[present] for past, present in zip(caches, presents, strict=True)}
        start = end
    assert worst <= tolerance(model), f"stepping differs from the full pass by {worst:.2e}"
    return f"{worst:.1e}"
