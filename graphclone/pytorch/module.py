"""Builds a torch.nn.Module from a graph: ordinary modules of torch.nn, made from the source in ``module.code``.

``module(**inputs)`` takes the graph's inputs by name and returns a dict of its outputs by name. Batch and length stay
as dynamic as they were in the graph. Blocks are submodules in an nn.ModuleList, so that activation checkpointing and
FSDP wrap them one by one.
"""

from __future__ import annotations

import copyreg
import hashlib
import linecache
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx_graphsurgeon as gs
import torch
from torch import nn

from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import GraphCloneError, UnsupportedGraph
from graphclone.graph import Model
from graphclone.pytorch.operators import Lookup
from graphclone.pytorch.recognition import recognise
from graphclone.pytorch.recognition.casts import absorb_casts
from graphclone.pytorch.recognition.dropout import put_back_dropout
from graphclone.pytorch.recording import record, refuse_unknown_operators
from graphclone.pytorch.sharing import PRODUCTS, unshared
from graphclone.pytorch.source.layout import absorb_views
from graphclone.pytorch.source.parts import tree
from graphclone.pytorch.source.placement import place
from graphclone.pytorch.source.program import MODEL, program
from graphclone.pytorch.weights import Weight, WeightMap, to_tensor, weight_map

FEWEST = 3  # products in the smallest block: attention and what gives its output
IMPORTED = "graphclone.imported"
WEIGHTS, INPUTS = "graphclone.weights", "graphclone.inputs"


@dataclass(frozen=True)
class Layout:
    """A model as a program: its source, which parameter is which initializer, and the tables that its buffers hold."""

    source: str
    weights: WeightMap
    tables: dict[str, torch.Tensor]
    inputs: dict[str, str]
    ties: tuple[tuple[str, str], ...] = ()


def to_torch(model: Model, dropout: float = 0.0) -> nn.Module:
    """``graphclone.to_torch`` (in_torch.py). ``weights(module)`` maps each Parameter's name to its initializers."""
    model = unshared(model)
    found = layout(model, dropout)
    module = _made(found)
    _load(module, found, model)
    module.code = found.source  # type: ignore[assignment]
    module.meta = {WEIGHTS: found.weights, INPUTS: found.inputs}  # type: ignore[assignment]
    return module


def layout(model: Model, dropout: float = 0.0) -> Layout:
    """Everything about the module of an ``unshared`` model but its weights, which are hardly read."""
    refuse_unknown_operators(model, Lookup.of(model))
    recording = absorb_casts(record(model, weight_map(model)))
    recognise(recording)
    recording = absorb_views(recording)
    placement = place(recording, _anatomy(model))
    if dropout:
        put_back_dropout(recording, placement, dropout)
    made = tree(recording, placement)
    tables = {name: recording.tables[key] for name, key in made.tables.items()}
    return Layout(program(recording, made).source, made.weights, tables, dict(recording.inputs), made.ties)


def weights(module: nn.Module) -> WeightMap:
    """Which parameter of an imported module is which initializer."""
    held = getattr(module, "meta", {}).get(WEIGHTS)
    if not isinstance(held, WeightMap):
        raise UnsupportedGraph("this module was not made by to_torch (or is wrapped: pass the module inside)")
    return held


def _anatomy(model: Model) -> Anatomy | None:
    """None where the graph has no blocks that graphclone knows: the module is then flat."""
    if sum(node.op in PRODUCTS for node in model.graph.nodes) < FEWEST:
        return None
    try:
        return inspect(model)
    except GraphCloneError:
        return None


def _made(found: Layout) -> nn.Module:
    """Nothing is allocated."""
    with torch.device("meta"):
        module: nn.Module = _classes(found.source)[MODEL]()
    return module


@cache
def _classes(source: str) -> dict[str, type[nn.Module]]:
    """Run the source, with its lines where tracebacks and compilers look for them: its modules by name.

    They are copied and pickled by the source, for their classes can be imported from nowhere.
    """
    name = f"<graphclone {hashlib.sha256(source.encode()).hexdigest()[:12]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": IMPORTED}
    exec(compile(source, name, "exec"), namespace)  # noqa: S102  written by program.py, from checked names
    made = {n: c for n, c in namespace.items() if isinstance(c, type) and c.__module__ == IMPORTED}
    made = {n: c for n, c in made.items() if issubclass(c, nn.Module)}

    def reduced(held: nn.Module) -> tuple[Any, ...]:
        return _blank, (source, type(held).__name__), held.__dict__

    for own in made.values():
        copyreg.pickle(own, reduced)
    return made


def _blank(source: str, name: str) -> nn.Module:
    """A module of a source, which gets its state from whoever copies or unpickles it."""
    own = _classes(source)[name]
    return own.__new__(own)


def _load(module: nn.Module, found: Layout, model: Model) -> None:
    """Put weights and tables in place; one weight under several names is one Parameter."""
    constants = {t.name: t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for holder in module.modules():
        for name, parameter in holder._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((holder, name))
    for weight in found.weights:
        loaded = nn.Parameter(values_of(weight, constants))
        for holder, name in places[id(module.get_parameter(weight.name))]:
            holder.register_parameter(name, loaded)
    for name, table in found.tables.items():
        path, _, leaf = name.rpartition(".")
        module.get_submodule(path).register_buffer(leaf, table.clone(), persistent=False)


def values_of(weight: Weight, constants: dict[str, gs.Constant]) -> torch.Tensor:
    """A weight as the module holds it."""
    initializer, turned = weight.initializers[0]
    return to_tensor(constants[initializer].values, initializer, turned).reshape(weight.shape)


__all__ = ["Layout", "layout", "to_torch", "values_of", "weights"]
