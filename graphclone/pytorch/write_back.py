"""Trained weights back into the graph they came from: the graph is untouched, only initializers change.

What was not trained comes back byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.pytorch.weights import Array, Weight, to_array, weight_map

WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")  # torch.compile, DistributedDataParallel, FSDP
SHOWN = 5


def from_torch(model: Model, module: torch.nn.Module) -> Model:
    """The model with the module's parameters, the exact inverse of ``to_torch(model)``.

    Raises BadData, naming the weights, where the module's parameters are not those of this model.
    """
    return pack(model, {_unwrapped(name): to_array(p) for name, p in module.named_parameters()})


def pack(model: Model, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Model:
    """The model with other weights, under the module's parameter names or the graph's initializer names.

    Every weight must be given: once, or more than once where it is tied, and then equal. Floats of another width are
    converted to the graph's own type. Raises BadData for names that are missing or unknown, shapes that differ,
    values that are not finite and ties that disagree; the model given is never changed.
    """
    weights = list(weight_map(model))
    packed = _Packed(model.constants())
    by_parameter = {weight.name: weight for weight in weights}
    by_initializer = {name: (weight, turned) for weight in weights for name, turned in weight.initializers}
    unknown = sorted(set(tensors) - by_parameter.keys() - by_initializer.keys())
    if unknown:
        raise BadData(f"the model has no weight called {_listed(unknown)}: these weights are of another model")
    for name in sorted(tensors):
        weight, turned = by_initializer[name] if name in by_initializer else (by_parameter[name], False)
        packed.take(name, weight, turned, tensors[name])
    missing = [weight.name for weight in weights if weight.name not in packed.given]
    if missing:
        raise BadData(f"no values for {_listed(missing)}: every weight of the model must be given")
    return packed.into(model, weights)


class _Packed:
    """Values by parameter, as the graph will hold them."""

    def __init__(self, constants: dict[str, Array]) -> None:
        self.constants = constants
        self.given: dict[str, tuple[str, Array]] = {}

    def take(self, name: str, weight: Weight, turned: bool, values: Array) -> None:
        values = np.asarray(values)
        wanted = weight.shape[::-1] if turned else weight.shape
        dtype = self.constants[weight.initializers[0][0]].dtype
        if values.shape != wanted:
            raise BadData(f"{name}: shape {list(values.shape)}, the graph holds {list(wanted)}")
        if values.dtype.kind not in "fV":
            raise BadData(f"{name}: element type {values.dtype}, the graph holds {dtype}")
        with np.errstate(over="ignore"):
            converted = values.astype(dtype, copy=False)
        if not _finite(converted):
            raise BadData(
                f"{name}: holds values that are not finite in {dtype}: training went wrong, nothing is written"
            )
        converted = converted.T if turned else converted
        before = self.given.setdefault(weight.name, (name, converted))
        if before[1] is not converted and before[1].tobytes() != converted.tobytes():
            raise BadData(f"{name} and {before[0]} are one tied weight in the graph, but their values differ")

    def into(self, model: Model, weights: list[Weight]) -> Model:
        result = model.detached()
        tensors = result.graph.tensors()
        for weight in weights:
            values = self.given[weight.name][1]
            for initializer, turned in weight.initializers:
                tensors[initializer].values = np.ascontiguousarray(values.T if turned else values)
        return result


def _finite(values: Array) -> bool:
    wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
    return bool(np.isfinite(wide).all())


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
