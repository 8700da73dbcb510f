"""Passes go together in every way that is not excluded, and change nothing where nothing is cut."""

from __future__ import annotations

import importlib.metadata
import json
from functools import cache
from itertools import combinations
from types import SimpleNamespace

import pytest

from graphclone.plan import EXCLUSIVE, IDLE, PASSES
from graphclone.planner import Target
from graphclone.planner import plan as make_plan
from graphclone.statistics import run
from graphclone.surgery.corrections.passes import NOTHING
from graphclone.surgery.corrections.passes import PASSES as MADE
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from graphclone.version import __version__
from tests.surgery.parents import parent
from tests.surgery.silenced import data, measured

SECOND = {"llama": "pca+read-in+depth-patch", "gpt2": "read-in+depth-patch"}


def compatible(named):
    return not any(pair <= set(named) for pair in EXCLUSIVE)


def largest():
    """Sets of passes that no other could join."""
    passes = [name for name in PASSES if name != "none"]
    sets = [s for size in range(1, len(passes) + 1) for s in combinations(passes, size) if compatible(s)]
    return ["+".join(s) for s in sets if not any(set(s) < set(other) for other in sets)]


@cache
def measured_parent(recipe):
    """A parent, a plan that cuts everything, and both passes over the data."""
    found = parent(recipe, "dynamo")
    target = Target(hidden=40, heads="50%", head_dim="50%", ffn=100, keep_blocks=(0, 2))
    plan = make_plan(found.anatomy, None, target, importance="uniform", method="none")
    first = measured(found, 32, moments=True)
    asked = SimpleNamespace(keep=plan.keep, drop_blocks=plan.drop_blocks, drop_feed_forward={}, method=SECOND[recipe])
    second = run.measure_kept(found.model, found.anatomy, asked, data(found.model, 32), provider="cpu", threads=1)
    return found, plan, first, second


def bytes_of(model):
    return {name: array.tobytes() for name, array in model.constants().items()}


CASES = [(recipe, method) for recipe in SECOND for method in largest() if recipe == "llama" or "pca" not in method]


HALF, SHORT, THIN = Target(hidden=40), Target(keep_blocks=(0, 2)), Target(ffn=100)
NOTHING_TO_DO = [
    ("llama", THIN, "mean-bias"),  # none of its products has a bias
    *(("llama", SHORT, name) for name in ("pca", "paper", "norm-gain", "least-squares", "read-in", "query-scale")),
    *(("llama", HALF, name) for name in ("depth-patch", "query-scale", "least-squares")),
]


@pytest.mark.parametrize(("recipe", "target", "method"), NOTHING_TO_DO)
def test_a_pass_that_finds_nothing_to_correct_says_so(recipe, target, method):
    found, _, first, second = measured_parent(recipe)
    plan = make_plan(found.anatomy, None, target, importance="uniform", method=method)
    made = clone(found.model, found.anatomy, plan, first, second)
    assert json.loads(made.metadata["graphclone.corrections"]) == {method: {IDLE: NOTHING[method]}}


def test_a_pass_that_corrects_leaves_no_such_note():
    found, plan, first, second = measured_parent("gpt2")
    planned = found.plan(plan.keep, "norm-gain+mean-bias", drop=plan.drop_blocks["blocks"])
    made = clone(found.model, found.anatomy, planned, first, second)
    assert not any(IDLE in note for note in json.loads(made.metadata.get("graphclone.corrections", "{}")).values())


def test_a_clone_says_which_graphclone_cut_it(monkeypatch):
    """Where no package is installed, too."""
    found, plan, first, second = measured_parent("gpt2")
    known = importlib.metadata.version

    def absent(name):
        if name == "graphclone":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    made = clone(found.model, found.anatomy, found.plan(plan.keep, "none", drop=[]), first, second)
    assert made.metadata["graphclone.version"] == __version__


@pytest.mark.parametrize(("recipe", "method"), CASES)
def test_they_go_together(recipe, method):
    found, plan, first, second = measured_parent(recipe)
    planned = found.plan(plan.keep, method, drop=plan.drop_blocks["blocks"])
    made = clone(found.model, found.anatomy, planned, first, second)
    report = verify(found.model, made, planned)
    assert report.passed, report.summary
    assert {c.verdict for c in report.checks if c.name == "weights are the parent's slices"} == {"passed"}
    backwards = found.plan(plan.keep, "+".join(reversed(method.split("+"))), drop=plan.drop_blocks["blocks"])
    again = clone(found.model, found.anatomy, backwards, first, second)
    assert bytes_of(again) == bytes_of(made), "the order of their names decides nothing, and two runs are alike"


@pytest.mark.parametrize("name", [name for name in PASSES if name != "none"])
def test_where_nothing_is_cut_nothing_is_changed(name):
    found, _, first, _ = measured_parent("llama")
    made = clone(found.model, found.anatomy, found.plan({}, name), first)
    assert bytes_of(made) == bytes_of(found.model)


def test_every_pass_that_plans_know_is_made():
    assert tuple(MADE) == PASSES
    assert len(largest()) >= 5
