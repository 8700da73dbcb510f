"""The table of corrections, and how a method's passes come together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphclone.anatomy.gaps import gaps
from graphclone.anatomy.parts import Anatomy
from graphclone.plan import IDLE, Plan, passes_of
from graphclone.surgery.corrections import pca
from graphclone.surgery.corrections.depth_patch import depth_patch
from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.corrections.least_squares import least_squares
from graphclone.surgery.corrections.mean_bias import mean_bias
from graphclone.surgery.corrections.norm_gain import cuts_head_norms, cuts_layer_norms, norm_gain
from graphclone.surgery.corrections.paper import paper
from graphclone.surgery.corrections.query_scale import query_scale
from graphclone.surgery.corrections.read_in import read_in
from graphclone.surgery.slice_weights import Correction, Use

# name -> what becomes of each use of a weight; a later pass of a method has the last word on a use
PASSES: dict[str, Callable[[Evidence], dict[Use, Correction]]] = {
    "none": lambda evidence: {},
    "pca": pca.pca,
    "paper": paper,
    "norm-gain": norm_gain,
    "least-squares": least_squares,
    "mean-bias": mean_bias,
    "depth-patch": depth_patch,
    "read-in": read_in,
    "query-scale": query_scale,
}

# pass -> why it may find nothing to correct, which is no error
NOTHING: dict[str, str] = {
    "pca": "no residual stream is narrowed",
    "paper": "no product reads fewer inputs",
    "norm-gain": "no norm is over fewer neurons",
    "least-squares": "no projection onto the stream reads fewer heads or feed-forward neurons",
    "mean-bias": "no projection onto the stream that reads fewer inputs has a bias",
    "depth-patch": "no block goes that a projection before it could make up for",
    "read-in": "no residual stream is narrowed",
    "query-scale": "no head is narrower whose scores are divided by a root of its width",
}


def corrections(method: str, evidence: Evidence) -> dict[Use, Correction]:
    """What a method ("norm-gain+least-squares") makes of the weights, pass by pass in the table's order. A pass that
    finds nothing to correct leaves a note.

    Raises InvalidTarget where it needs statistics that are not there, or where it is not for this parent.
    """
    named = passes_of(method)
    if pca.NAME in named:
        evidence = replace(evidence, basis=pca.basis(evidence))
    for name in named:
        before = len(evidence.notes)
        found = PASSES[name](evidence)
        evidence.made.update(found)
        if not found and len(evidence.notes) == before and name in NOTHING:
            evidence.notes[name] = {IDLE: NOTHING[name]}
    return evidence.made


def refuse_unfit(anatomy: Anatomy, method: str) -> None:
    """Raises InvalidTarget for a method that can be told not to be for this parent before anything is measured."""
    if pca.NAME in passes_of(method):
        pca.refuse(anatomy)


def _narrows(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether a plan cuts a residual stream."""
    return any(len(plan.keep.get(s.residual, range(s.hidden))) < s.hidden for s in anatomy.stacks)


# pass -> whether a plan leaves it something to measure once more
SECOND_PASS: dict[str, Callable[[Anatomy, Plan], bool]] = {
    "pca": _narrows,
    "norm-gain": lambda anatomy, plan: cuts_layer_norms(anatomy, plan) or cuts_head_norms(anatomy, plan),
    "depth-patch": lambda anatomy, plan: any(gaps(anatomy, plan.drop_blocks, plan.drop_feed_forward)),
    "read-in": _narrows,
}


NEEDED = ("pca", "depth-patch", "read-in")  # that do nothing without it


def without_second_pass(anatomy: Anatomy, plan: Plan) -> Plan:
    """The plan without the passes of its method that need a second pass over the data, where that was not made."""
    named = passes_of(plan.method)
    kept = [name for name in named if name not in NEEDED or not SECOND_PASS[name](anatomy, plan)]
    return plan if len(kept) == len(named) else replace(plan, method="+".join(kept) or "none")


def takes_second_pass(anatomy: Anatomy, plan: Plan) -> bool:
    """Whether a plan's method corrects by a second pass over the data."""
    refuse_unfit(anatomy, plan.method)
    return any(SECOND_PASS[name](anatomy, plan) for name in passes_of(plan.method) if name in SECOND_PASS)
