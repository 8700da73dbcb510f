"""Norms of queries and keys over what is cut: exact where the dropped dimensions or heads are zero."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphclone import pipeline
from graphclone.anatomy.parts import AxisRef
from graphclone.feeds import tiny_feeds
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import dropped, zeroed
from tests.surgery.silenced import answer, changed, data, measured
from tests.surgery.zoo_parent import zoo_parent
from tests.tolerances import assert_close, difference


def silenced(found, keep):
    """Queries and keys are zero where they are dropped."""
    edits = {}
    for block in found.anatomy.stacks[0].blocks:
        for part in block.attention:
            for linear in found.anatomy.linears:
                if linear.weight in (*part.q, *part.k):
                    gone = dropped(found.anatomy, AxisRef(linear.weight, linear.out_axis), keep)

                    def silence(array, axis=linear.out_axis, gone=gone):
                        moved = np.moveaxis(array, axis, -1)
                        moved[..., gone] = 0.0
                        return np.moveaxis(moved, -1, axis)

                    edits[linear.weight] = silence
    return changed(found, edits)


CASES = {
    "qwen3": ("qk_dim", "norm-gain+query-scale"),  # each head has its own norm, over its dimensions
    "olmo2": ("kv_head", "norm-gain"),  # one norm over all heads
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_where_what_is_dropped_is_zero(name):
    kind, method = CASES[name]
    whole = zoo_parent(name, "torchscript")
    groups = [g for g in whole.anatomy.groups.values() if g.kind == kind]
    keep = {g.name: tuple(range(0, g.size, 2)) for g in groups}
    found = silenced(whole, keep)
    plan = found.plan(keep, method)
    assert pipeline.takes_second_pass(found.anatomy, plan)
    batches = data(found.model, 4)
    second = pipeline.measure_kept(found.model, plan, batches, anatomy=found.anatomy, provider="cpu", threads=1)
    first = measured(found, 1)
    made = clone(found.model, found.anatomy, plan, first, second)
    report = verify(found.model, made, plan)
    assert report.passed, report.summary
    fed = tiny_feeds(found.model, 2, 9)
    wanted = answer(zeroed(found, keep) if kind == "kv_head" else found.model, fed)
    assert_close(answer(made, fed), wanted, "float16")  # an epsilon weighs more over fewer channels, by the token
    plain = clone(found.model, found.anatomy, found.plan(keep, "none"))
    assert difference(answer(plain, fed), wanted) > 20 * difference(answer(made, fed), wanted)
    alone = clone(found.model, found.anatomy, plan, first)
    notes = json.loads(alone.metadata["graphclone.corrections"])
    assert all("no second pass" in note["kept the slice"] for note in notes.values())
    assert len(notes) == 2 * len(found.anatomy.stacks[0].blocks)
