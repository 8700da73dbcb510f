"""Is the parent read as it runs? All other checks hold a clone against the graph that reading made of the file.

Packed weights become numbers, branches their nodes, fused norms an addition and a norm (normal_form.py). A misreading
there would be in parent and clone alike. So ONNX Runtime runs the file itself, and the graph as it was read, on one
small batch; where reading wrote nothing otherwise there is nothing to ask.
"""

from __future__ import annotations

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.verification.memory import too_large
from graphclone.verification.oracle import allowed
from graphclone.verification.report import Check
from graphclone.verification.sessions import open_file, open_session
from graphclone.verification.zeroed import difference

NAME = "the parent is read as it runs"
BATCH, LENGTH = 2, 7


def examine(parent: Model) -> list[Check]:
    """The check, where the parent is computed otherwise than its file says."""
    if not parent.rewritten:
        return []
    written = f"written otherwise: {', '.join(parent.rewritten)}"
    if parent.path is None or not parent.path.is_file():
        return [Check.skipped(NAME, f"the parent is no file on disk; {written}")]
    if reason := too_large(parent):
        return [Check.skipped(NAME, f"{reason}; {written}")]
    return [_compared(parent, written)]


def _compared(parent: Model, written: str) -> Check:
    fed = tiny.tiny_feeds(parent, BATCH, LENGTH)
    try:
        expected = open_file(parent).run(fed)
    except UnsupportedGraph as problem:
        return Check.skipped(NAME, f"{problem}; {written}")
    if difference(expected, expected)[0]:
        return Check.skipped(NAME, f"the file itself gives numbers that are not finite; {written}")
    try:
        actual = open_session(parent, optimise=False, exact=False).run(fed)
    except UnsupportedGraph as problem:
        return Check.of(NAME, [str(problem)], "")
    if odd := [name for name in expected if name not in actual or actual[name].shape != expected[name].shape]:
        return Check.of(NAME, [f"output {name} is of another shape, or missing" for name in odd], "")
    worst, where = difference(expected, actual)
    limit = allowed(worst, parent, lambda: difference(actual, open_session(parent).run(fed))[0])
    return Check.measured(NAME, worst, limit, f"largest relative difference, in output {where}; {written}")
