"""What a clone's metadata says about itself: parent, plan, and for each initializer the slice of the parent it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphclone.errors import GraphCloneError, VerificationFailed
from graphclone.graph import Model
from graphclone.plan import Plan

Indices = np.ndarray[Any, np.dtype[np.int64]]

PREFIX = "graphclone."
VOCABULARY = "vocabulary"  # the group of neurons that token ids index


Own = Mapping[str, Mapping[str, Mapping[str, list[str]]]]
Scale = float | tuple[Any, ...]  # a number, or nested lists of them that broadcast onto the slice


@dataclass(frozen=True)
class Slice:
    """initializer = take(parent initializer, each axis) x scale, where None keeps an axis whole.

    Without a parent it is a constant that encodes a size. ``replaced``: of that shape, but computed from what was
    measured (a least-squares repair, a norm's bias). ``tokens``: ids of tokens, counted among those kept.
    """

    parent: str | None
    take: tuple[Indices | None, ...] = ()
    scale: Scale = 1.0
    replaced: bool = False
    tokens: bool = False

    @property
    def shape_constant(self) -> bool:
        """True for a constant that encodes a size, which is no slice of anything."""
        return self.parent is None


@dataclass(frozen=True)
class Claims:
    """The metadata, read. ``trained``: the weights were changed by training after the cut. ``groups``: how many neurons
    the parent has of each group that the plan names; clones of before do not say. ``own``: the parent's weights that
    nothing but a block reads, of the blocks that the plan drops or repeats: field of the plan -> stack -> block ->
    names; None where the clone does not say."""

    plan: Plan
    parent_sha256: str
    method: str
    version: str
    slices: Mapping[str, Slice]
    trained: bool = False
    groups: Mapping[str, int] = field(default_factory=dict)
    own: Own | None = None

    @property
    def tokens(self) -> Indices | None:
        """The parent's ids of the tokens kept, or None where all were."""
        kept = self.plan.keep.get(VOCABULARY)
        return None if kept is None else np.asarray(kept, np.int64)


def read(clone: Model) -> Claims:
    """Parse the metadata of a clone.

    Raises VerificationFailed where it is absent or malformed: a file that does not say what it is cannot be examined.
    """
    held = {key.removeprefix(PREFIX): text for key, text in clone.metadata.items() if key.startswith(PREFIX)}
    missing = sorted({"plan", "parent_sha256", "version", "method", "slices"} - held.keys())
    if missing:
        keys = ", ".join(PREFIX + key for key in missing)
        raise VerificationFailed(f"{clone.path or 'the clone'}: no metadata {keys}: was it written by graphclone?")
    try:
        takes = [_indices(take) for take in json.loads(held.get("takes", "[]"))]
        slices = {name: _slice(claim, takes) for name, claim in json.loads(held["slices"]).items()}
        groups = {name: int(size) for name, size in json.loads(held.get("groups", "{}")).items()}
        own = _own(json.loads(held["own"])) if "own" in held else None
        plan = Plan.from_json(held["plan"], PREFIX + "plan")
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, GraphCloneError) as reason:
        raise VerificationFailed(f"{clone.path or 'the clone'}: malformed metadata ({reason})") from None
    trained = held.get("trained") == "true"
    return Claims(plan, held["parent_sha256"], held["method"], held["version"], slices, trained, groups, own)


def _own(told: Any) -> Own:
    return {
        str(field): {
            stack: {str(int(k)): list(map(str, names)) for k, names in blocks.items()}
            for stack, blocks in stacks.items()
        }
        for field, stacks in told.items()
    }


def _indices(take: Any) -> Indices:
    array = np.asarray(take)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError("the indices kept along an axis are a flat list of whole numbers")
    return array.astype(np.int64)


def _slice(claim: Mapping[str, Any], takes: Sequence[Indices]) -> Slice:
    """An axis is null (whole), the number of a list in ``takes``, or a list of indices itself."""
    if claim.get("shape_constant"):
        return Slice(None)
    take = tuple(
        None if axis is None else takes[axis] if isinstance(axis, int) and axis >= 0 else _indices(axis)
        for axis in claim["take"]
    )
    replaced, tokens = claim.get("replaced", False) is True, claim.get("tokens", False) is True
    return Slice(str(claim["parent"]), take, _scale(claim.get("scale", 1.0)), replaced, tokens)


def _scale(held: Any) -> Scale:
    return tuple(_scale(each) for each in held) if isinstance(held, list) else float(held)
