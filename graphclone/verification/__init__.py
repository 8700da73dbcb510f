"""The examiner: is a clone what its plan says, as a file, as slices of its parent, and in its numbers?

Shares no code with the surgery that makes clones or with the anatomy that guides it: it reads both files and the
clone's own claims in its metadata, and recomputes them.
"""

from __future__ import annotations

from graphclone.errors import VerificationFailed
from graphclone.graph import Model, to_proto
from graphclone.plan import Plan
from graphclone.verification import claims, oracle, reading, runtime, slices, structure, vocabulary
from graphclone.verification.report import Check, Report, Verdict
from graphclone.verification.sessions import latency
from graphclone.verification.trained import verify_trained

__all__ = ["Check", "Report", "Verdict", "latency", "verify", "verify_trained"]


def verify(parent: Model, clone: Model, plan: Plan | None = None) -> Report:
    """Examine a clone against its parent; ``plan`` is what it should have been made by, where the caller knows.

    Raises nothing about the clone itself: every fault is a failed check of the report (``raise_if_failed``).
    """
    checks = structure.examine(to_proto(parent)[0], to_proto(clone)[0])
    checks += runtime.examine(clone, parent)
    checks += reading.examine(parent)
    try:
        claimed = claims.read(clone)
    except VerificationFailed as reason:
        return Report((*checks, Check.of("metadata", [str(reason)], "")))
    checks.append(
        Check.of("metadata", _contradictions(parent, claimed, plan), f"written by graphclone {claimed.version}")
    )
    checks += slices.examine(parent, clone, claimed)
    if claimed.tokens is None:
        return Report((*checks, oracle.examine(parent, clone, claimed)))
    whole, without = vocabulary.widened(parent, clone, claimed)
    checks.append(vocabulary.examine(whole, clone, claimed))
    return Report((*checks, oracle.examine(parent, whole, without)))


def _contradictions(parent: Model, claimed: claims.Claims, plan: Plan | None) -> list[str]:
    """Where the metadata disagrees with the parent at hand, with itself, or with the given plan."""
    compared = (
        ("the parent's sha256", claimed.parent_sha256, parent.sha256),
        ("the plan's parent", claimed.plan.parent, claimed.parent_sha256),
        ("the method", claimed.method, claimed.plan.method),
        ("the plan", claimed.plan.to_json(), plan.to_json() if plan else claimed.plan.to_json()),
    )
    return [f"{what} is {_short(said)}, expected {_short(true)}" for what, said, true in compared if said != true]


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}... ({len(text)} characters)"
