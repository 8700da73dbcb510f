"""What is told of a clone before it is written is what it has."""

from __future__ import annotations

import pytest

import models
from graphclone import pipeline
from graphclone.sizing import greedy
from graphclone.target import Target


@pytest.fixture(scope="module")
def bert():
    return pipeline.load(models.cached("bert", exporter="torchscript"))


def test_parameters_are_those_of_the_clone_with_and_without_an_anatomy(bert):
    anatomy = pipeline.inspect(bert)
    made = pipeline.plan(anatomy, None, Target(hidden="50%", layers=1), importance="first", method="none")
    clone = pipeline.clone(bert, made, anatomy=anatomy)
    wanted = pipeline.inspect(clone).parameters
    assert pipeline.parameters(bert, made) == pipeline.parameters(bert, made, anatomy=anatomy) == wanted
    assert pipeline.predict(bert, made).parameters == wanted


@pytest.mark.parametrize(("layers", "count"), [(2, 2), ("50%", 1), ("100%", 3)])
def test_greedy_depth_reads_the_number_of_layers_as_a_target_does(bert, monkeypatch, layers, count):
    asked = []
    monkeypatch.setattr(greedy, "greedy", lambda *given: asked.append(given[4:]) or (0,))
    assert pipeline.greedy_depth(bert, None, [], layers, mask="counted") == (0,)
    ((number, _, mask),) = asked
    assert (number, mask) == (count, "counted")
