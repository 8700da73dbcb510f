"""Renames token ids for a clone of fewer tokens: which of the teacher's ids each of the clone's is."""

from __future__ import annotations

import hashlib

from graphclone import feeds
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan

GROUP = "vocabulary"  # as the clone's plan calls what token ids index


def teachers_ids(clone: Model, teacher: Model) -> tuple[int, ...] | None:
    """``ids[k]`` is what the teacher calls the clone's token k; None where both count alike.

    Raises InvalidTarget for a clone of fewer tokens that learns from another than its parent or its equal in tokens.
    """
    text = clone.metadata.get("graphclone.plan")
    plan = None if text is None else Plan.from_json(text, "the clone's plan")
    kept = None if plan is None else plan.keep.get(GROUP)
    if plan is None or kept is None or rows(teacher) == len(kept):
        return None
    if plan.parent != teacher.sha256:
        raise InvalidTarget(
            f"the clone has {len(kept):,} of its parent's tokens, and the teacher ({rows(teacher) or 0:,}) is another "
            f"model: it learns from its parent ({plan.parent[:12]}...), or from one with the same tokens"
        )
    return kept


def rows(model: Model) -> int | None:
    """How many tokens a model knows."""
    found = [given.rows for given in feeds.inputs(model).values() if given.role.name == "tokens" and given.rows]
    return min(found, default=None)


def digest(ids: tuple[int, ...] | None) -> str:
    """Cache key for the renaming of ids; empty if both share a vocabulary."""
    return "" if ids is None else hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
