"""Whether logits tell the next token: whether those of a position stay what they are when later tokens change.

Nothing of a graph says so in words (a mask is a table, a comparison of ranges, or an attribute of a fused attention),
so it is tried. Of a few sequences some get other tokens in their second half. Where a graph rounds its activations by
their range, every number moves a little then; how little shows in the sequences that were left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.graph import Model
from graphclone.statistics.masks import owners
from graphclone.verification.sessions import open_session

Array = np.ndarray[Any, Any]
BATCH, LENGTH = 4, 12
SILENT = 1e-4  # of the change behind: less is the arithmetic's
ROUNDED = 2.0  # times what the sequences left alone change by


def is_causal(model: Model, tokens: str, logits: str) -> bool:
    """Whether ``logits`` [batch, length, vocabulary] at a position depend on ``tokens`` up to there alone."""
    fed = feeds.tiny_feeds(model, BATCH, LENGTH)
    ids, rows = fed[tokens], feeds.inputs(model)[tokens].rows or feeds.DEFAULT_ROWS
    changed, half = max(1, ids.shape[0] // 2), ids.shape[1] // 2
    if half == 0:
        return False  # nothing comes before anything
    others = ids.copy()
    others[:changed, half:] = (ids[:changed, half:] + max(1, rows // 2)) % rows
    session = open_session(model)
    before = np.array(session.run(fed)[logits], np.float64)  # a copy: the next run may write over it
    moved = np.asarray(session.run({**fed, tokens: others.astype(ids.dtype)})[logits], np.float64) - before
    ahead, behind, alone = moved[:changed, :half], moved[:changed, half:], moved[changed:]
    return _size(ahead) <= max(SILENT * _size(behind), ROUNDED * _size(alone))


def tells_next(model: Model, logits: str) -> bool | None:
    """``is_causal`` of an output and the tokens whose positions it has; None where it has those of no tokens."""
    known = feeds.inputs(model)
    owner = owners(model, [logits], known).get(logits)
    if owner is None or known[owner].role.name != "tokens":
        return None
    return is_causal(model, owner, logits)


def _size(moved: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(moved).mean())) if moved.size else 0.0
