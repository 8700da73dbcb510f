"""Importance of every neuron of every layer, from what was measured or, without statistics, from the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphclone.anatomy.parts import Anatomy, NeuronGroup
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.report import words
from graphclone.report.facts import Array, Map
from graphclone.statistics import importance
from graphclone.statistics.evidence import Evidence, gathered
from graphclone.statistics.store import Statistics

BY_WEIGHTS = "magnitude"  # the importance that needs no data
INNER = ("ffn", "head", "kv_head", "group")
AGREES = 0.98  # share of the kept neurons that lead their row: below, a line at their number would say what is not so


def scores(name: str, anatomy: Anatomy, parent: Model, stats: Statistics | None) -> dict[str, Array]:
    """Scores of each group by an importance, reading weights where it needs them. Raises InvalidTarget."""
    row, _ = importance.find(name)
    weights = parent.constants() if row.needs_weights else None
    return importance.score(name, anatomy, stats, weights)


def maps(
    anatomy: Anatomy, parent: Model, stats: Statistics | None, found: Mapping[str, Array], plans: Mapping[str, Plan]
) -> tuple[Map, ...]:
    """The stream of each stack, then what is inside the blocks, a kind at a time."""
    made = [_stream(anatomy, parent, stats, found, plans, stack.residual, stack.name) for stack in anatomy.stacks]
    for kind in INNER:
        made += [_inner(anatomy, found, plans, kind, stack.name) for stack in anatomy.stacks]
    return tuple(one for one in made if one is not None and one.rows)


def _title(anatomy: Anatomy, what: str, stack: str) -> str:
    return what if len(anatomy.stacks) == 1 else f"{what} of {stack}"


def _stream(
    anatomy: Anatomy,
    parent: Model,
    stats: Statistics | None,
    found: Mapping[str, Array],
    plans: Mapping[str, Plan],
    residual: str,
    stack: str,
) -> Map | None:
    group = anatomy.groups[residual]
    if residual not in found:
        return None
    order = np.argsort(-found[residual], kind="stable")
    seen = _measured(anatomy, stats, group) if stats is not None else _weighed(anatomy, parent, group)
    rows = {label: values[order] for label, values in seen}
    cuts: dict[str, list[int | None]] = {}
    for clone, plan in plans.items():
        kept = plan.keep.get(residual)
        if kept is not None and _leads(order, kept):
            cuts[clone] = [len(kept)] * len(rows)
    what = "mean square behind each norm" if stats is not None else "energy of the weights that read or write it"
    return Map(_title(anatomy, "Residual stream", stack), what, "channels", rows, False, cuts)


def _measured(anatomy: Anatomy, stats: Statistics, group: NeuronGroup) -> Iterator[tuple[str, Array]]:
    evidence = Evidence(anatomy, stats, None)
    for site in evidence.sites(group, "norm", "writer"):
        if evidence.has(site, "square"):
            yield site.name, gathered(evidence.mean(site, "square"), site.members[group.name], group.size, mean=True)


def _weighed(anatomy: Anatomy, parent: Model, group: NeuronGroup) -> Iterator[tuple[str, Array]]:
    """Block by block, squares of the weights of its products along the group's axes."""
    weights = parent.constants()
    evidence = Evidence(anatomy, None, weights)
    axes = {axis.tensor: axis for axis in group.axes}
    for stack in anatomy.stacks:
        if stack.residual != group.name:
            continue
        for block in stack.blocks:
            inside, total = frozenset(block.nodes), np.zeros(group.size)
            for tensor in dict.fromkeys(p.weight for p in anatomy.linears if p.node in inside and p.weight in axes):
                members = dict(anatomy.axes[axes[tensor]]).get(group.name)
                energy = evidence.along(tensor, axes[tensor].axis, 2)
                if members is not None and energy is not None:
                    total += gathered(energy, members, group.size, mean=False)
            yield f"blocks.{block.index}", total


def _inner(
    anatomy: Anatomy,
    found: Mapping[str, Array],
    plans: Mapping[str, Plan],
    kind: str,
    stack: str,
) -> Map | None:
    """A row a block; all of one width, as a clone's target wants them too (other rows are left out)."""
    prefix = "" if len(anatomy.stacks) == 1 else f"{stack}."
    groups = [
        g for g in anatomy.groups.values()
        if g.kind == kind and g.name in found and g.block is not None and g.size > 1 and g.name.startswith(prefix)
    ]  # fmt: skip
    if len(groups) < 2:
        return None
    rows = {g.name: -np.sort(-found[g.name]) for g in groups}
    cuts: dict[str, list[int | None]] = {}
    for clone, plan in plans.items():
        kept = [_cut(found[g.name], plan.keep.get(g.name)) for g in groups]
        if any(k is not None for k in kept):
            cuts[clone] = kept
    neurons = words.kind(kind)
    return Map(_title(anatomy, neurons[0].upper() + neurons[1:], stack), "", neurons, rows, True, cuts)


def _cut(scored: Array, kept: tuple[int, ...] | None) -> int | None:
    """How many of the first are kept; None where those kept are not the first."""
    if kept is None or not _leads(np.argsort(-scored, kind="stable"), kept):
        return None
    return len(kept)


def _leads(order: np.ndarray[Any, Any], kept: tuple[int, ...]) -> bool:
    leading = order[: len(kept)]
    return float(np.isin(leading, kept).mean()) >= AGREES


def kept_share(scored: Array | None, kept: tuple[int, ...] | None) -> float | None:
    """Of a group's importance, the share of the neurons kept; None where it is not known."""
    if scored is None or scored.min() < 0 or scored.sum() <= 0:
        return None
    return 1.0 if kept is None else float(scored[list(kept)].sum() / scored.sum())
