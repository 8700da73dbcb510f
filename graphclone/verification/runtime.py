"""Does the clone load and run in ONNX Runtime, at several batch sizes and lengths, with the outputs it declares?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.verification import stepping
from graphclone.verification.memory import too_large
from graphclone.verification.report import Check
from graphclone.verification.sessions import Session, open_session

Array = np.ndarray[Any, Any]

SIZES = ((1, 3), (2, 7), (3, 13))  # batch, length: odd and prime, so that no size is mistaken for another


def examine(clone: Model, parent: Model | None = None) -> list[Check]:
    """Load it, run it at each of SIZES (fixed axes stay as declared), and step it with its cache.

    parent: what it was made of, which may run at fewer sizes: an export can hold those of the batch it was traced on.
    """
    if reason := too_large(clone):
        return [Check.skipped("loads in ONNX Runtime", reason)]
    try:
        session = open_session(clone)
    except UnsupportedGraph as problem:
        return [Check.of("loads in ONNX Runtime", [str(problem)], "")]
    checks = [Check.of("loads in ONNX Runtime", [], "on the CPU")]
    checks += [_run(clone, session, batch, length, parent) for batch, length in SIZES]
    return checks + stepping.examine(clone, session)


def _run(clone: Model, session: Session, batch: int, length: int, parent: Model | None) -> Check:
    name = f"runs at batch {batch}, length {length}"
    fed = tiny.tiny_feeds(clone, batch=batch, length=length)
    try:
        results = session.run(fed)
    except UnsupportedGraph as problem:
        if reason := _not_even(parent, batch, length):
            return Check.skipped(name, reason)
        return Check.of(name, [str(problem)], "")
    shapes = ", ".join(f"{key}{list(array.shape)}" for key, array in list(results.items())[:2])
    return Check.of(name, _implausible(clone, fed, results), f"finite outputs of the declared shapes: {shapes}")


def _not_even(parent: Model | None, batch: int, length: int) -> str | None:
    """Why the parent does not run at a size, where it does not."""
    if parent is None or too_large(parent):
        return None
    try:
        open_session(parent).run(tiny.tiny_feeds(parent, batch=batch, length=length))
    except UnsupportedGraph as problem:
        return f"the parent does not run there either: its export holds sizes of the batch it was traced on ({problem})"
    return None


def _implausible(clone: Model, fed: Mapping[str, Array], results: Mapping[str, Array]) -> Iterator[str]:
    bound = {
        size: fed[value.name].shape[axis]
        for value in clone.graph.inputs
        if value.name in fed
        for axis, size in enumerate(value.shape or ())
        if isinstance(size, str)
    }
    for value in clone.graph.outputs:
        found = results[value.name]
        if np.issubdtype(found.dtype, np.floating) and not np.isfinite(found).all():
            yield f"output {value.name} holds {np.count_nonzero(~np.isfinite(found))} values that are not finite"
        if not _matches(value, found, bound):
            yield f"output {value.name} is {found.dtype}{list(found.shape)}, declared {value.dtype}{value.shape}"


def _matches(value: gs.Variable, found: Array, bound: Mapping[str, int]) -> bool:
    """Type, rank and sizes; a named size counts where an input has the same name, -1 and others may be anything."""
    if value.dtype is not None and np.dtype(value.dtype) != found.dtype:
        return False
    if value.shape is None:
        return True
    declared = [bound.get(size, -1) if isinstance(size, str) else size for size in value.shape]
    return len(declared) == found.ndim and all(
        want in (None, -1, have) for want, have in zip(declared, found.shape, strict=True)
    )
