"""Is a trained model the model it was, with other weights? Nothing but the values of initializers may have changed."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from graphclone.graph import Model, to_proto
from graphclone.verification import runtime, structure
from graphclone.verification.report import Check, Report


def verify_trained(before: Model, after: Model) -> Report:
    """Examine a model whose weights were trained: the file, the graph against the one before, and whether it runs."""
    old, new = to_proto(before)[0], to_proto(after)[0]
    checks = structure.examine(old, new)
    checks.append(
        Check.of("only weights changed", _changes(old.graph, new.graph), f"{len(new.graph.node)} nodes alike")
    )
    return Report((*checks, *runtime.examine(after)))


def _changes(old: onnx.GraphProto, new: onnx.GraphProto) -> Iterator[str]:
    if [node.SerializeToString(deterministic=True) for node in old.node] != [
        node.SerializeToString(deterministic=True) for node in new.node
    ]:
        yield "its nodes are others"
    for what in ("input", "output"):
        if [str(value) for value in getattr(old, what)] != [str(value) for value in getattr(new, what)]:
            yield f"its {what}s are others"
    forms = [{t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer} for graph in (old, new)]
    for name in sorted(forms[0].keys() | forms[1].keys()):
        if forms[0].get(name) != forms[1].get(name):
            yield f"initializer {name} was {forms[0].get(name)}, is {forms[1].get(name)}"
