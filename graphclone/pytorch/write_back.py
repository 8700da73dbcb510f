"""Writes trained weights back into the graph they came from: its nodes stay, only initializers change.

What was not trained comes back byte for byte. Weights that an exporter had merged because they were equal, and that
training told apart, become initializers of their own (sharing.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.pytorch.module import Layout, layout
from graphclone.pytorch.sharing import origin, shared_again, unshared
from graphclone.pytorch.weights import Array, Weight, to_array

OUTER = "module."  # DistributedDataParallel's, at the front alone
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch.compile, FSDP, checkpointing
SHOWN = 5
ONE = (1,)  # a learned number may have an axis in the module and none in the graph
TRAINED = "graphclone.trained"  # in a clone's metadata: its weights are no slices of its parent's any more


def from_torch(model: Model, module: torch.nn.Module) -> Model:
    """``graphclone.from_torch`` (in_torch.py), without the mark of a trained model."""
    return pack(model, {_unwrapped(name): to_array(p) for name, p in module.named_parameters()})


def pack(model: Model, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Model:
    """``graphclone.pack`` (in_torch.py), without the mark of a trained model."""
    apart = unshared(model)
    found = layout(apart)
    weights = list(found.weights)
    packed = _Packed(apart.constants())
    by_parameter = {weight.name: weight for weight in weights}
    by_parameter |= {name: by_parameter[first] for name, first in found.ties}
    by_initializer = _readers(weights)
    tensors = _out_of_wrapper(tensors, by_parameter.keys() | by_initializer.keys() | found.tables.keys())
    tensors = _without_tables(tensors, found)
    unknown = sorted(set(tensors) - by_parameter.keys() - by_initializer.keys())
    if unknown:
        raise BadData(f"the model has no weight called {_listed(unknown)}: these weights are of another model")
    for name in sorted(tensors):
        if name in by_parameter:
            packed.take(name, by_parameter[name], None, tensors[name])
        for initializer, weight in by_initializer.get(name, ()) if name not in by_parameter else ():
            if initializer == name or initializer not in tensors:
                packed.take(name, weight, initializer, tensors[name])
    missing = [weight.name for weight in weights if weight.name not in packed.given]
    if missing:
        raise BadData(f"no values for {_listed(missing)}: every weight of the model must be given")
    return packed.into(apart, weights)


def marked(before: Model, after: Model) -> Model:
    """``after``, which notes in its metadata where any weight is not what it was before."""
    held = before.constants()
    for name, array in after.constants().items():
        if name not in held or array.tobytes() != held[name].tobytes():
            after.metadata[TRAINED] = "true"
            break
    return after


def _out_of_wrapper(tensors: Mapping[str, Array], known: Collection[str]) -> Mapping[str, Array]:
    """Under the names inside DistributedDataParallel, where they are not all names of the model as they stand."""
    if all(name in known for name in tensors) or not all(name.startswith(OUTER) for name in tensors):
        return tensors
    return {name.removeprefix(OUTER): values for name, values in tensors.items()}


def _without_tables(tensors: Mapping[str, Array], found: Layout) -> dict[str, Array]:
    """A file of ``graphclone torch`` holds the tables too, which stay as they are in the graph."""
    for name in sorted(set(tensors) & found.tables.keys()):
        if not np.array_equal(to_array(found.tables[name]), tensors[name], equal_nan=True):
            raise BadData(f"{name}: is a table of the graph, not a weight, and its values differ from the graph's")
    return {name: values for name, values in tensors.items() if name not in found.tables}


def _readers(weights: list[Weight]) -> dict[str, list[tuple[str, Weight]]]:
    """Initializer name -> the initializers that take its values, with their parameters: all that were merged in it."""
    found: dict[str, list[tuple[str, Weight]]] = {}
    for weight in weights:
        for name, _ in weight.initializers:
            for known in {name, origin(name)}:
                found.setdefault(known, []).append((name, weight))
    return found


class _Packed:
    """Values by parameter, as the module holds them."""

    def __init__(self, constants: dict[str, Array]) -> None:
        self.constants = constants
        self.given: dict[str, tuple[str, Array]] = {}

    def take(self, name: str, weight: Weight, initializer: str | None, values: Array) -> None:
        """Note a parameter's values, given as the module or (under ``initializer``) as the graph holds them."""
        values = np.asarray(values)
        held = self.constants[initializer or weight.initializers[0][0]]
        wanted = weight.shape if initializer is None else held.shape
        if (values.shape or ONE) != (wanted or ONE):
            raise BadData(f"{name}: shape {list(values.shape)}, the model holds {list(wanted)}")
        if values.dtype.kind not in "fV":
            raise BadData(f"{name}: element type {values.dtype}, the graph holds {held.dtype}")
        with np.errstate(over="ignore"):
            converted = values.astype(held.dtype, copy=False)
        if not _finite(converted):
            raise BadData(
                f"{name}: holds values that are not finite in {held.dtype}: training went wrong, nothing is written"
            )
        turned = initializer is not None and dict(weight.initializers)[initializer]
        converted = (converted.T if turned else converted).reshape(weight.shape)
        before = self.given.setdefault(weight.name, (name, converted))
        if before[1] is not converted and before[1].tobytes() != converted.tobytes():
            raise BadData(f"{name} and {before[0]} are one tied weight in the graph, but their values differ")

    def into(self, model: Model, weights: list[Weight]) -> Model:
        result = Model(model.graph.copy(), None, dict(model.metadata))
        result.graph.producer_name = model.graph.producer_name  # which its copy forgets
        result.graph.producer_version = model.graph.producer_version
        tensors = result.graph.tensors()
        for weight in weights:
            values = self.given[weight.name][1]
            for initializer, turned in weight.initializers:
                shape = tensors[initializer].values.shape
                tensors[initializer].values = np.ascontiguousarray(values.T if turned else values).reshape(shape)
        shared_again(result)
        return result


def _finite(values: Array) -> bool:
    wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
    return bool(np.isfinite(wide).all())


def _unwrapped(name: str) -> str:
    return ".".join(step for step in name.split(".") if step not in WRAPPERS)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
