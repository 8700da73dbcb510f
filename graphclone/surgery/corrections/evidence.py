"""Holds what a correction may look at: the cut, the parent's anatomy, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Anatomy, Norm, Site
from graphclone.anatomy.projections import Projection, projections
from graphclone.errors import InvalidTarget
from graphclone.statistics.store import Statistics
from graphclone.surgery.cut import Cut
from graphclone.surgery.slice_weights import Correction, Use

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evidence:
    """statistics: of the parent. affine: of a second pass over the neurons kept. living: the nodes (by first output)
    that stay. basis: directions of the stream that the clone keeps instead of neurons, [all, kept]. notes: what the
    passes did, site by site, for the clone's record. made: what the passes before made of the weights."""

    cut: Cut
    anatomy: Anatomy
    living: frozenset[str]
    statistics: Statistics | None = None
    affine: Statistics | None = None
    basis: Array | None = None
    notes: dict[str, dict[str, float | str]] = field(default_factory=dict)
    made: dict[Use, Correction] = field(default_factory=dict)

    def measured(self, method: str) -> Statistics:
        """The statistics. Raises InvalidTarget where there are none, or of another parent."""
        if self.statistics is None:
            raise InvalidTarget(f"method {method} corrects by what was measured: give --stats, or --data to measure")
        self.statistics.refuse_unfit(self.anatomy)
        return self.statistics

    def second_pass(self, method: str) -> Statistics:
        """The statistics of the second pass. Raises InvalidTarget where there are none, or of another parent."""
        if self.affine is None:
            raise InvalidTarget(
                f"method {method} measures once more what the plan keeps: give --data (pipeline.measure_kept)"
            )
        self.affine.refuse_unfit(self.anatomy)
        return self.affine

    @property
    def norms(self) -> Iterator[tuple[Norm, Site]]:
        """The norms over a residual stream that stay, and where they were measured."""
        sites = {s.name: s for s in self.anatomy.sites}
        for stack in self.anatomy.stacks:
            for norm in (*(n for block in stack.blocks for n in block.norms), *stack.norms):
                if norm.site and norm.output in self.living:
                    yield norm, sites[norm.site]

    @property
    def head_norms(self) -> Iterator[Norm]:
        """The norms of queries and keys that stay and are cut."""
        values = self.cut.trace.values
        for stack in self.anatomy.stacks:
            for norm in (n for block in stack.blocks for n in block.norms if n.placement == "qk"):
                cut = norm.input in values and norm.output in self.living
                if cut and self.cut.size(values[norm.input].axis(-1), norm.width) < norm.width:
                    yield norm

    @property
    def inner(self) -> Iterator[tuple[Projection, Site]]:
        """The projections onto a residual stream that stay, and where their input was measured."""
        sites = {s.value: s for s in self.anatomy.sites if s.kind == "inner"}
        for p in self.products:
            if p.input in sites and p.output in self.living:
                yield p, sites[p.input]

    @cached_property
    def weights(self) -> dict[str, Array]:
        """The parent's initializers."""
        return self.cut.trace.model.constants()

    @cached_property
    def products(self) -> tuple[Projection, ...]:
        """Every product of the parent with a weight."""
        return tuple(projections(self.cut.found))

    @property
    def nodes(self) -> dict[str, gs.Node]:
        """The parent's nodes by each of their outputs."""
        return self.cut.found.producers

    def tensor(self, use: Use) -> gs.Tensor:
        """What a use reads, in the parent."""
        return self.nodes[use[0]].inputs[use[1]]

    def sliced(self, use: Use) -> Array:
        """The slice of an initializer that a use gets, without any correction."""
        tensor = self.tensor(use)
        values: Array = tensor.values
        for axis, take in self.cut.takes(tensor.name, use).items():
            values = np.take(values, take, axis=axis)
        return values

    def corrected(self, use: Use) -> Array:
        """The same in float64, as the passes before have corrected it."""
        correction = self.made.get(use)
        if correction is not None and correction.values is not None:
            return correction.values.astype(np.float64)
        plain = self.sliced(use).astype(np.float64)
        return plain if correction is None else np.asarray(plain * correction.scale)

    @cached_property
    def onto_the_stream(self) -> frozenset[str]:
        """Outputs of the products that write a residual stream."""
        residuals = {stack.residual for stack in self.anatomy.stacks}
        return frozenset(p.output for p in self.products if any(g.name in residuals for g in p.writes))
