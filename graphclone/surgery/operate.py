"""Surgery, pass by pass: depth, width, sizes, clean-up, and the record that the clone carries."""

from __future__ import annotations

import json
from typing import Any

import onnx_graphsurgeon as gs

from graphclone import garbage
from graphclone.anatomy.describe import describe, examine
from graphclone.anatomy.flows import TABLE
from graphclone.anatomy.groups import Grouping
from graphclone.anatomy.parts import Anatomy
from graphclone.anatomy.trace import Trace
from graphclone.anatomy.tracing import run
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.statistics.store import Statistics
from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.corrections.paper import scale_outputs
from graphclone.surgery.corrections.passes import corrections
from graphclone.surgery.cut import Cut
from graphclone.surgery.drop_blocks import drop_blocks
from graphclone.surgery.drop_parts import drop_parts
from graphclone.surgery.own import own_weights
from graphclone.surgery.renumber import renumber
from graphclone.surgery.repeat_blocks import repeat_blocks
from graphclone.surgery.resizer import Resizer
from graphclone.surgery.shapes import ROWS
from graphclone.surgery.slice_weights import Slices, slice_weights
from graphclone.surgery.tables import pick_from_tables
from graphclone.surgery.tokens import count_tokens_anew
from graphclone.version import __version__


@garbage.kept()
def clone(
    model: Model,
    anatomy: Anatomy,
    plan: Plan,
    statistics: Statistics | None = None,
    affine: Statistics | None = None,
) -> Model:
    """The parent cut to the plan: a new model, the parent untouched.

    statistics: for the methods that correct by what was measured. affine: of a second pass, over the neurons kept.

    Raises InvalidTarget for a plan of another parent or one that the groups cannot meet, UnsupportedGraph where a size
    cannot be rewritten.
    """
    if plan.parent != anatomy.fingerprint or anatomy.fingerprint != model.sha256:
        raise InvalidTarget(f"the plan is for parent {plan.parent[:12]}, this one is {model.sha256[:12]}: plan again")
    found = _traced(model, anatomy)
    cut = Cut(found, plan)
    made = model.detached()
    drop_parts(made, anatomy, plan, found.trace)
    drop_blocks(made, anatomy, plan, found.trace)
    living = frozenset(t.name for n in made.graph.nodes for t in n.outputs if t.name)
    evidence = Evidence(cut, anatomy, living, statistics, affine)
    corrected = corrections(plan.method, evidence)
    slices = slice_weights(made, cut, corrected)
    picked = pick_from_tables(made, cut)
    count_tokens_anew(made, model, anatomy, plan, slices)
    sizes = picked + scale_outputs(made.graph, corrected) + _resize(made, cut)
    _clean(made, cut, model)
    copies = repeat_blocks(made, anatomy, plan, slices)
    renumber(made.graph, model.graph, anatomy, plan, copies)
    claims = _claims(made, slices, sizes)
    _record(made, plan, claims, slices.takes)
    left = {str(claim["parent"]) for claim in claims.values() if "parent" in claim}
    made.metadata |= {
        "graphclone.groups": json.dumps({name: anatomy.groups[name].size for name in plan.keep}, sort_keys=True),
        "graphclone.own": json.dumps(own_weights(model, anatomy, plan, left), sort_keys=True),
    }
    if evidence.notes:
        made.metadata["graphclone.corrections"] = json.dumps(evidence.notes, sort_keys=True)
    return made


def _traced(model: Model, anatomy: Anatomy) -> Grouping:
    """The trace that the anatomy was read from, where it is of this very model; the same anew where it is not."""
    if anatomy.found is not None and anatomy.found.trace.model is model:
        return anatomy.found
    found = examine(model)
    describe(found, model)  # names the groups, as the plan does
    return found


def _resize(made: Model, cut: Cut) -> list[str]:
    """Trace the clone, mending sizes as they come; then every shape must be the expected one."""
    resizer = Resizer(cut, ROWS)
    trace = run(made, tiny_feeds(made), TABLE, resizer)
    resizer.place(made.graph)
    _audit(trace, cut)
    return resizer.constants


def _audit(trace: Trace, cut: Cut) -> None:
    for name, value in trace.values.items():
        expected = cut.expected(name)
        if expected is not None and value.shape != expected and not _follows_other(cut, name):
            maker = next((n for n in trace.model.graph.nodes if any(t.name == name for t in n.outputs)), None)
            what = f"{maker.op} node {maker.name!r}" if maker is not None else "input"
            raise UnsupportedGraph(
                f"{what}: {name!r} would be {list(value.shape)}, the plan needs {list(expected)}: "
                f"no row of graphclone/surgery/shapes.py covers it"
            )


def _follows_other(cut: Cut, name: str) -> bool:
    """Integers and shapes may change freely; what counts is what they shape."""
    value = cut.trace.values[name]
    return value.data is not None and value.data.dtype.kind in "iub"


def _clean(made: Model, cut: Cut, parent: Model) -> None:
    used = {t.name for t in parent.graph.inputs if t.outputs}
    graph = made.graph
    graph.cleanup()
    graph.inputs[:] = [t for t in graph.inputs if t.outputs or t.name not in used]
    inputs = {t.name for t in graph.inputs}
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable) and tensor.shape is not None and name not in inputs:
            tensor.shape = _declared(cut, name, list(tensor.shape))


def _declared(cut: Cut, name: str, shape: list[int | str | None]) -> list[int | str | None]:
    """Fixed sizes that a value declares follow the plan. A symbol says that values agree in a size, by which ONNX
    Runtime shares their memory: of a size that was cut it says so no more."""
    value, expected = cut.trace.values.get(name), cut.expected(name)
    if value is None or expected is None or len(expected) != len(shape):
        return shape
    return [_size(d, v, e) for d, v, e in zip(shape, value.shape, expected, strict=True)]


def _size(declared: int | str | None, before: int, after: int) -> int | str | None:
    if isinstance(declared, int):
        return after if declared == before else declared
    return declared if before == after else None


def _claims(made: Model, slices: Slices, sizes: list[str]) -> dict[str, dict[str, Any]]:
    """What each initializer of the clone is."""
    kept = {n for n, t in made.graph.tensors().items() if isinstance(t, gs.Constant)}
    claims = {name: claim for name, claim in slices.claims.items() if name in kept}
    return claims | {name: {"shape_constant": True} for name in sizes if name in kept}


def _record(made: Model, plan: Plan, claims: dict[str, dict[str, Any]], takes: list[list[int]]) -> None:
    made.metadata |= {
        "graphclone.plan": plan.to_json(),
        "graphclone.parent_sha256": plan.parent,
        "graphclone.method": plan.method,
        "graphclone.version": __version__,
        "graphclone.slices": json.dumps(claims, sort_keys=True),
        "graphclone.takes": json.dumps(takes),
    }


__all__ = ["clone"]
