"""The parents, loaded and inspected once, and what the oracles need: feeds, runs, plans, zeroed copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, AxisRef
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from graphclone.verification.products import unsigned

Array = np.ndarray[Any, Any]
SIZES = ((1, 3), (2, 7), (3, 11))  # batch, length
VOCAB, IMAGE = 131, (3, 32, 32)


@dataclass(frozen=True)
class Parent:
    """One export of one recipe."""

    name: str
    exporter: str
    model: Model
    anatomy: Anatomy

    def plan(self, keep: Mapping[str, Iterable[int]], method: str = "none", drop: Iterable[int] = ()) -> Plan:
        dropped = {self.anatomy.stacks[0].name: tuple(drop)} if drop else {}
        return Plan(self.anatomy.fingerprint, {n: tuple(map(int, k)) for n, k in keep.items()}, dropped, method)

    def cut(self, keep: Mapping[str, Iterable[int]], method: str = "none", drop: Iterable[int] = ()) -> Model:
        return clone(self.model, self.anatomy, self.plan(keep, method, drop))

    def groups(self, *kinds: str) -> list[str]:
        """Names of the groups of these kinds that may be cut; of all kinds where none is named."""
        found = [g for g in self.anatomy.groups.values() if not g.pinned and (not kinds or g.kind in kinds)]
        return [g.name for g in found]

    def some(self, rng: np.random.Generator, part: float, *kinds: str) -> dict[str, Array]:
        """A random part of every group of these kinds, ascending."""
        sizes = {n: self.anatomy.groups[n].size for n in self.groups(*kinds)}
        return {n: np.sort(rng.permutation(d)[: max(1, int(d * part))]) for n, d in sizes.items()}


def shuffled(rng: np.random.Generator, size: int) -> Array:
    """A permutation that is not the identity."""
    order = rng.permutation(size)
    return order[::-1] if (order == np.arange(size)).all() else order


@cache
def parent(name: str, exporter: str) -> Parent:
    model = graph.load(models.cached(name, exporter=exporter))
    return Parent(name, exporter, model, inspect(model))


def feeds(model: Model, batch: int, length: int, seed: int = 0) -> dict[str, Array]:
    """Random ids or pixels by the inputs' own names; the last row is padded."""
    rng = np.random.default_rng(seed)
    made: dict[str, Callable[[], Array]] = {
        "input_ids": lambda: rng.integers(0, VOCAB, (batch, length)),
        "attention_mask": lambda: np.where(np.arange(length) < [[length]] * (batch - 1) + [[length - 1]], 1, 0),
        "token_type_ids": lambda: rng.integers(0, 2, (batch, length)),
        "pixel_values": lambda: rng.standard_normal((batch, *IMAGE)).astype(np.float32),
    }
    return {t.name: made[t.name]() for t in model.graph.inputs}


def session(model: Model) -> onnxruntime.InferenceSession:
    """The model as it is written: no optimisation reorders its arithmetic."""
    proto, arrays = graph.to_proto(unsigned(model))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for a in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def outputs(model: Model) -> list[list[Array]]:
    """The outputs at each of SIZES, on the same inputs for every model."""
    opened = session(model)
    return [list(opened.run(None, feeds(model, *size))) for size in SIZES]


def output_take(found: Parent, keep: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, Array]]:
    """Outputs as wide as the residual stream follow it: output -> (axis, positions of the parent's)."""
    taken = {}
    for output, group in {"last_hidden_state": "residual", "pooler_output": "tail"}.items():
        if any(t.name == output for t in found.model.graph.outputs) and group in keep:
            taken[output] = (-1, np.asarray(list(keep[group])))
    return taken


def expected(found: Parent, model: Model, keep: Mapping[str, Iterable[int]]) -> list[list[Array]]:
    """The outputs of ``model`` (full width), those as wide as the residual sliced as the plan slices it."""
    takes = output_take(found, keep)
    names = [t.name for t in model.graph.outputs]
    return [
        [np.take(a, takes[n][1], axis=takes[n][0]) if n in takes else a for n, a in zip(names, row, strict=True)]
        for row in outputs(model)
    ]


def with_constants(model: Model, values: Mapping[str, Array]) -> Model:
    """A copy with some initializers replaced."""
    made = model.copy()
    for tensor in made.graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.name in values:
            tensor.values = values[tensor.name]
    return Model(made.graph)


def dropped(anatomy: Anatomy, ref: AxisRef, keep: Mapping[str, Iterable[int]]) -> Array:
    """Which positions of an initializer's axis belong to a neuron that the plan drops."""
    gone = None
    for group, neurons in anatomy.axes[ref]:
        if group in keep:
            here = (neurons >= 0) & ~np.isin(neurons, list(keep[group]))
            gone = here if gone is None else gone | here
    assert gone is not None, f"{ref} knows none of {', '.join(keep)}"
    return gone


def zeroed(found: Parent, keep: Mapping[str, Iterable[int]]) -> Model:
    """The parent with the dropped positions of every projection that reads a group of ``keep`` set to zero."""
    values = {}
    for linear in found.anatomy.linears:
        if set(linear.reads) & keep.keys():
            array = found.model.constants()[linear.weight].copy()
            gone = dropped(found.anatomy, AxisRef(linear.weight, linear.in_axis), keep)
            array[(slice(None),) * linear.in_axis + (gone,)] = 0
            values[linear.weight] = array
    return with_constants(found.model, values)
