"""A real encoder, cut and taught: MiniLM's embedding from half of its neurons and blocks."""

from __future__ import annotations

import pytest

import graphclone as gc
import models
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.batches import hold_out
from graphclone.pytorch.training.course import Beside, run


@pytest.mark.real
def test_half_of_minilm_comes_closer_to_its_parents_embedding():
    file = models.cached("minilm")
    parent = gc.load(file)
    plan = gc.plan(gc.inspect(parent), None, gc.Target(hidden=192, layers=3), importance="first", method="none")
    clone = gc.clone(parent, plan)
    source = gc.open_source("python-docs", parent, tokenizer=models.tokenizer_beside(file), length=32, limit=14)
    held_out, rest = hold_out(source, 2)
    options = TrainingOptions(12, learning_rate=5e-4, task="embedding", evaluate_every=12, keep="best")
    trained = run(clone, rest, options, Beside(teacher=parent), held_out=held_out)
    (_, before), (_, after) = trained.history.evaluations
    assert after < before - 0.1
    assert trained.in_runtime == pytest.approx(after, rel=1e-3)
    assert trained.history.taught == 12
