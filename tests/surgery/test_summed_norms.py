"""Norms whose means are sums divided by a number: the number follows the width, as the gain expects it to."""

from __future__ import annotations

import numpy as np
import pytest

from graphclone.anatomy import inspect
from graphclone.errors import UnsupportedGraph
from graphclone.feeds import tiny_feeds
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from graphclone.verification.oracle import NAME
from tests.surgery.parents import Parent
from tests.surgery.silenced import answer, measured, without
from tests.surgery.summed import FORMS, summed_parent
from tests.tolerances import TOLERANCE, assert_close, difference

DROPPED = np.array([1, 4, 6])
KEPT = (0, 2, 3, 5, 7)


def silent(form) -> Parent:
    """A parent whose dropped channels say nothing."""
    model = summed_parent(form)
    return without(Parent(form, "by hand", model, inspect(model)), DROPPED, centred=form.startswith("LayerNorm"))


@pytest.mark.parametrize("form", FORMS)
def test_each_is_found_as_what_it_is(form):
    stack = inspect(summed_parent(form)).stacks[0]
    norms = [n for b in stack.blocks for n in b.norms] + list(stack.norms)
    kind = "LayerNorm" if form.startswith("LayerNorm") else "RMSNorm"
    assert [(n.kind, n.width, bool(n.gain), bool(n.bias)) for n in norms] == [
        (kind, 8, True, kind == "LayerNorm")
    ] * 5, [n.output for n in norms]


@pytest.mark.parametrize("form", FORMS)
def test_norm_gain_is_exact_where_the_dropped_channels_say_nothing(form):
    found = silent(form)
    plan = found.plan({found.anatomy.stacks[0].residual: KEPT}, "norm-gain")
    made = clone(found.model, found.anatomy, plan, measured(found))
    fed = tiny_feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted)
    plain = found.cut(plan.keep)
    assert difference(answer(plain, fed), wanted) > 10 * TOLERANCE["float32"]
    report = verify(found.model, made, plan)
    assert report.passed, report.summary


UNSEEN = ("sum of shares", "(sum + d e) / d", "product with itself / d")  # numbers that it takes from the clone


@pytest.mark.parametrize("form", [form for form in FORMS if form not in UNSEEN])
def test_the_examiner_does_not_take_the_clones_word_for_the_number(form):
    model = summed_parent(form)
    found = Parent(form, "by hand", model, inspect(model))
    plan = found.plan({found.anatomy.stacks[0].residual: KEPT})
    made = found.cut(plan.keep)
    assert verify(model, made, plan).passed
    held = [t for t in made.graph.tensors().values() if t.name in divisors(made)]
    assert held
    for tensor in held:  # what the parent divides by: over fewer channels no mean
        (power,) = {p for p in (1, -1, 0.5, -0.5) if np.isclose(tensor.values, len(KEPT) ** p, rtol=1e-3)}
        tensor.values = np.full_like(tensor.values, 8.0**power)
    report = verify(model, made, plan)
    assert [check.name for check in report.checks if not check.passed] == [NAME], report.summary


def divisors(made):
    """Numbers that a Mul or Div reads: these parents have no others."""
    read = {t.name for n in made.graph.nodes if n.op in ("Mul", "Div") for t in n.inputs}
    return {name for name, held in made.constants().items() if name in read and held.size == 1}


def test_a_mean_by_a_column_of_shares_is_refused_by_name():
    model = summed_parent("column of 1/d")
    found = Parent("column", "by hand", model, inspect(model))
    with pytest.raises(UnsupportedGraph, match=r"MatMul node .*a mean over 8 .* column of 1/8 \[8, 1\].*ReduceMean"):
        found.cut({found.anatomy.stacks[0].residual: KEPT})
    verify(model, found.cut({n: range(1) for n in found.groups("head")}))
