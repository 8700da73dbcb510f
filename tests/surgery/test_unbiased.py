"""Unbiased variances: d / (d - 1) follows the width, however it is written; the examiner knows it by itself."""

from __future__ import annotations

import numpy as np
import pytest

from graphclone.anatomy import inspect
from graphclone.feeds import tiny_feeds
from graphclone.verification import verify
from graphclone.verification.oracle import NAME
from tests.surgery.parents import Parent
from tests.surgery.silenced import answer
from tests.surgery.summed import UNBIASED, summed_parent
from tests.tolerances import assert_close

KEPT = (0, 2, 3, 5, 7)
NUMBERS = {8.0: 5.0, 7.0: 4.0, 8 / 7: 5 / 4}  # of the parent -> of the clone


def cut(form):
    model = summed_parent(form)
    found = Parent(form, "by hand", model, inspect(model))
    return model, found.cut({found.anatomy.stacks[0].residual: KEPT})


def numbers(model):
    """Constants that a product or quotient reads."""
    read = [t for n in model.graph.nodes if n.op in ("Mul", "Div") for t in n.inputs]
    return [t for t in read if t.name in model.constants() and t.values.size == 1]


@pytest.mark.parametrize("form", UNBIASED)
def test_the_correction_is_of_the_channels_kept(form):
    model, made = cut(form)
    wanted = [NUMBERS[h] for t in numbers(model) for h in NUMBERS if np.isclose(t.values, h)]
    assert [float(t.values.reshape(-1)[0]) for t in numbers(made)] == pytest.approx(wanted)
    report = verify(model, made)
    assert report.passed, report.summary
    fed = tiny_feeds(model, 2, 9)
    assert_close(answer(made, fed), answer(cut("mean * d / (d - 1) of a shape")[1], fed))


@pytest.mark.parametrize("form", [form for form in UNBIASED if "shape" not in form])
def test_the_examiner_knows_a_correction_of_the_parents_width(form):
    model, made = cut(form)
    assert numbers(made)
    for tensor in numbers(made):
        old = next(before for before, after in NUMBERS.items() if np.isclose(tensor.values, after))
        tensor.values = np.full_like(tensor.values, old)
    report = verify(model, made)
    assert [check.name for check in report.checks if not check.passed] == [NAME], report.summary
