"""query-scale: a clone with narrower heads has the parent's scores of the dimensions kept."""

from __future__ import annotations

from graphclone import pipeline
from graphclone.planner import Target
from graphclone.verification import verify
from tests.surgery.parents import outputs
from tests.surgery.rescaled import rescaled
from tests.tolerances import assert_close, difference


def halved(found, method):
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance="uniform", method=method)
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    report = verify(found.model, made, plan)
    assert report.passed, report.summary
    return plan, made


def test_scores_are_divided_as_the_parent_divides_them(found):
    """Held against the whole parent with the dropped dimensions zeroed, nothing else changed."""
    plan, made = halved(found, "query-scale")
    reference = rescaled(found, plan.keep, 1.0)
    for got, want in zip(outputs(made), outputs(reference), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
    _, plain = halved(found, "none")
    assert difference(outputs(plain)[1][0], outputs(reference)[1][0]) > 1e-3


def test_heads_that_stay_as_wide_are_left_alone(found):
    plan = pipeline.plan(found.anatomy, None, Target(heads="50%"), importance="first", method="query-scale")
    made, plain = (
        pipeline.clone(found.model, p, anatomy=found.anatomy)
        for p in (plan, pipeline.plan(found.anatomy, None, Target(heads="50%"), importance="first", method="none"))
    )
    assert {n: a.tobytes() for n, a in made.constants().items()} == {
        n: a.tobytes() for n, a in plain.constants().items()
    }
