"""Is a trained model the model it was, with other weights? Nothing but the values of initializers may have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from graphclone.graph import Model, to_proto
from graphclone.verification import runtime, structure
from graphclone.verification.report import Check, Report

MARK = "@"  # bias@1: what the second reader of bias has of its own


def verify_trained(before: Model, after: Model) -> Report:
    """Examine a model whose weights were trained: the file, the graph against the one before, and whether it runs."""
    old, new = to_proto(before)[0], to_proto(after)[0]
    checks = structure.examine(old, new)
    checks.append(
        Check.of("only weights changed", _changes(old.graph, new.graph), f"{len(new.graph.node)} nodes alike")
    )
    return Report((*checks, *runtime.examine(after, before)))


def _changes(old: onnx.GraphProto, new: onnx.GraphProto) -> Iterator[str]:
    forms = [{t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer} for graph in (old, new)]
    apart = {
        name: first for name in forms[1] if (first := _before(name, forms[0])) and forms[0][first] == forms[1][name]
    }
    if [_told(node, {}) for node in old.node] != [_told(node, apart) for node in new.node]:
        yield "its nodes are others"
    for what in ("input", "output"):
        if [str(value) for value in getattr(old, what)] != [str(value) for value in getattr(new, what)]:
            yield f"its {what}s are others"
    for name in sorted(forms[0].keys() | forms[1].keys()):
        if forms[0].get(name) != forms[1].get(name) and name not in apart:
            yield f"initializer {name} was {forms[0].get(name)}, is {forms[1].get(name)}"


def _before(name: str, known: Mapping[str, Any]) -> str | None:
    """The initializer that was one for several readers, where training has told them apart: bias of bias@1."""
    first, mark, number = name.rpartition(MARK)
    return first if mark and number.isdigit() and name not in known and first in known else None


def _told(node: onnx.NodeProto, apart: Mapping[str, str]) -> bytes:
    """All of a node, with the names its weights had before."""
    held = onnx.NodeProto()
    held.CopyFrom(node)
    held.input[:] = [apart.get(name, name) for name in node.input]
    told: bytes = held.SerializeToString(deterministic=True)
    return told
