"""Lists the places that a probe sums over, from an anatomy, and how their values lie under the masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, AxisRef, Norm, Site
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.statistics import masks
from graphclone.statistics.assembly import show_sums
from graphclone.statistics.reductions import Place
from graphclone.statistics.runtime import PROVIDERS, open_session
from graphclone.statistics.widening import needed, widened

Array = np.ndarray[Any, Any]
SITES = ("writer", "inner", "norm")


class Keeping(Protocol):
    """What a plan says: group name -> neurons kept in order, stack name -> blocks removed, or kept without their
    feed-forward; and the passes that correct weights, joined by ``+``."""

    @property
    def keep(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def drop_blocks(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def drop_feed_forward(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def method(self) -> str: ...  # noqa: D102


def norms_by_site(anatomy: Anatomy) -> dict[str, Norm]:
    """Each norm that a site measures, by the site's name."""
    outside = [norm for stack in anatomy.stacks for norm in stack.norms]
    inside = [norm for stack in anatomy.stacks for block in stack.blocks for norm in block.norms]
    return {norm.site: norm for norm in (*outside, *inside) if norm.site}


def first_pass(anatomy: Anatomy, moments: Collection[str] = ()) -> list[Place]:
    """Every site and every block; ``moments``: names of the sites with second moments too."""
    norms = norms_by_site(anatomy)
    places = [
        Place(s.name, s.kind, (s.value,), s.axis, s.width, norms.get(s.name), moment=s.name in moments)
        for s in anatomy.sites
        if s.kind in SITES
    ]
    return places + _blocks(anatomy)


def moments_alone(anatomy: Anatomy, moments: Collection[str]) -> list[Place]:
    """Second moments and nothing else, at the sites named."""
    return [Place(s.name, "moment", (s.value,), s.axis, s.width) for s in anatomy.sites if s.name in moments]


def _blocks(anatomy: Anatomy) -> list[Place]:
    """A block is measured where its entry and its exit look the same."""
    axes: dict[str, tuple[int, int]] = {}
    for site in anatomy.sites:
        for group in site.members:
            if site.kind in ("norm", "writer"):
                axes.setdefault(group, (site.axis, site.width))
    found = []
    for stack in anatomy.stacks:
        if stack.residual not in axes:
            continue
        axis, width = axes[stack.residual]
        prefix = "" if len(anatomy.stacks) == 1 else f"{stack.name}."
        found += [
            Place(f"{prefix}blocks.{block.index}", "block", (block.entry, block.exit), axis, width)
            for block in stack.blocks
        ]
    return found


def second_pass(anatomy: Anatomy, plan: Keeping) -> list[Place]:
    """The norms that stay and whose residual stream is cut, with the positions kept, in the plan's order.

    Raises InvalidTarget where the plan cuts no residual stream.
    """
    norms = norms_by_site(anatomy)
    residuals = {s.residual for s in anatomy.stacks}
    gone = {
        norm.site
        for stack in anatomy.stacks
        for block in stack.blocks
        if block.index in plan.drop_blocks.get(stack.name, ())
        for norm in block.norms
    }
    found = []
    for site in anatomy.sites:
        cut = [name for name in site.members if name in residuals and name in plan.keep]
        if site.kind != "norm" or site.name in gone or not cut:
            continue
        places = positions(site, cut, plan)
        if len(places) < site.width:
            found.append(Place(site.name, "kept", (site.value,), site.axis, site.width, norms[site.name], places))
    if not found:
        raise InvalidTarget(
            "the plan keeps all neurons of the residual stream: there is nothing to correct at its norms"
        )
    return found


def head_norms(anatomy: Anatomy, plan: Keeping) -> list[Place]:
    """The norms of queries and keys that stay and whose dimensions or heads are cut, with the positions kept."""
    found = []
    for stack in anatomy.stacks:
        for block in stack.blocks:
            if block.index in plan.drop_blocks.get(stack.name, ()):
                continue
            for norm in (n for n in block.norms if n.placement == "qk" and n.gain is not None):
                stays = np.ones(norm.width, bool)
                for name, members in anatomy.axes.get(AxisRef(str(norm.gain), 0), ()):
                    if name in plan.keep:
                        stays &= np.isin(members, plan.keep[name]) | (members < 0)
                kept = tuple(int(i) for i in np.flatnonzero(stays))
                if len(kept) < norm.width:
                    found.append(Place(norm.output, "kept", (norm.input,), -1, norm.width, norm, kept))
    return found


def positions(site: Site, cut: Sequence[str], plan: Keeping) -> tuple[int, ...]:
    """Those that a plan keeps of groups: in its order where each is one neuron of one group, else ascending."""
    cut = [name for name in cut if name in plan.keep]
    if len(cut) == 1:
        members = site.members[cut[0]]
        if np.array_equal(np.sort(members), np.arange(site.width)):
            return tuple(int(i) for i in np.argsort(members)[np.asarray(plan.keep[cut[0]])])
    stays = np.ones(site.width, bool)
    for name in cut:
        members = site.members[name]
        stays &= np.isin(members, plan.keep[name]) | (members < 0)
    return tuple(int(i) for i in np.flatnonzero(stays))


def lay_out(
    model: Model, places: Sequence[Place], mask: str | None = None, provider: str = PROVIDERS["cpu"]
) -> list[Place]:
    """The places with their layouts, as one tiny run shows them; blocks that change the layout are left out.

    ``mask``: the input that says which positions count, of whatever it fits; None: the attention mask of each value's
    own positions. The run is on the CPU, on ``provider`` where that has no kernels. Raises UnsupportedGraph where a
    value is not there, InvalidTarget for a mask that fits nothing.
    """
    where = model.path or "the model"
    if not places:
        raise UnsupportedGraph(f"{where}: there is no site to measure at")
    shown = widened(model) if needed(model) else model.copy()  # this one runs on the CPU
    show_sums(shown, places)
    tiny, shapes = masks.learn(model, lambda fed: _shapes(shown, places, fed, provider))
    if mask is None:
        pairs, owners = masks.pairs(tiny), masks.owners(shown, list(shapes), tiny.known)
        chosen = {value: pairs.get(owners.get(value, "")) for value in shapes}
    else:
        chosen = dict.fromkeys(shapes, masks.named(mask, tiny))
    made = []
    for place in places:
        found = tuple(
            masks.layout(shapes[value], place.axis, tiny.masks.get(chosen[value] or ""), chosen[value])
            for value in place.values
        )
        if place.kind == "block" and (len(set(found)) > 1 or shapes[place.values[0]] != shapes[place.values[1]]):
            continue
        behind = shapes[place.values[0]][1 if found[0].flat else 2 :]
        made.append(replace(place, layouts=found, inner=behind))
    if mask is not None and not any(layout.mask for place in made for layout in place.layouts):
        raise InvalidTarget(
            f"mask {mask}: no activation is laid out as it is, {list(tiny.fed[mask].shape)} in a tiny run"
        )
    return made


def _shapes(
    model: Model, places: Sequence[Place], tiny: Mapping[str, Array], provider: str
) -> dict[str, tuple[int, ...]]:
    """Concrete shape of each value in one run."""
    copy = model.copy()
    tensors = copy.graph.tensors()
    values = list(dict.fromkeys(value for place in places for value in place.values))
    absent = [value for value in values if value not in tensors]
    if absent:
        raise UnsupportedGraph(f"{model.path or 'the model'}: no tensor {absent[0]!r} to measure at")
    for number, value in enumerate(values):
        output = gs.Variable(f"graphclone_shape_{number}", np.int64, None)
        copy.graph.nodes.append(gs.Node("Shape", f"graphclone_shape_{number}", {}, [tensors[value]], [output]))
    copy.graph.outputs = [node.outputs[0] for node in copy.graph.nodes[-len(values) :]]
    try:
        session = open_session(copy, PROVIDERS["cpu"], None, optimise=False)
    except UnsupportedGraph:  # what only a GPU has kernels for
        if provider == PROVIDERS["cpu"]:
            raise
        session = open_session(copy, provider, None, optimise=False)
    results = session.run(tiny, "the run that learns shapes")
    return {value: tuple(int(n) for n in shape) for value, shape in zip(values, results, strict=True)}
