"""Exports that hold the sizes of the batch they were traced on run at no other, and so do their clones."""

from __future__ import annotations

from graphclone import graph
from graphclone.verification import Verdict, runtime
from tests.hand_made import HEADS, HIDDEN, attention, cut, feed_forward, transformer

BATCH, LENGTH = 2, 7


def fixed(made, x, stem):
    """TorchScript writes a size that Python had read as a number."""
    return attention(made, made.op("Reshape", x, made.constant([BATCH, LENGTH, HIDDEN])), stem)


def ran(report):
    return {check.name: check.verdict for check in report.checks if check.name.startswith("runs at")}


def test_a_parent_that_runs_at_one_size_has_clones_that_do():
    _, report = cut(transformer(fixed), ffn=12, heads=HEADS // 2)
    report.raise_if_failed()
    assert ran(report) == {
        "runs at batch 1, length 3": Verdict.NOT_APPLICABLE,
        "runs at batch 2, length 7": Verdict.PASSED,
        "runs at batch 3, length 13": Verdict.NOT_APPLICABLE,
    }
    reasons = [check.detail for check in report.checks if check.verdict is Verdict.NOT_APPLICABLE]
    assert all("the parent does not run there either" in reason for reason in reasons)


def test_a_clone_that_runs_at_fewer_sizes_than_its_parent_fails():
    parent, clone = (graph.from_proto(transformer(part, feed_forward)) for part in (attention, fixed))
    checks = {check.name: check.verdict for check in runtime.examine(clone, parent)}
    assert checks["runs at batch 1, length 3"] is Verdict.FAILED
    assert checks["runs at batch 2, length 7"] is Verdict.PASSED
