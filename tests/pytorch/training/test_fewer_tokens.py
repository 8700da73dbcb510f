"""A clone of fewer tokens learns from its parent: ids are renamed on the way in, logits of other tokens left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphclone as gc
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.course import Beside, run

KEPT = tuple(range(3, 131, 2))
OPTIONS = TrainingOptions(steps=2, learning_rate=1e-9, teacher_weight=1.0, hidden_weight=0.0, dropout=0.0)


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Model:
    return gc.load(parent_file("llama", exporter="dynamo"))


@pytest.fixture(scope="module")
def small(llama: Model) -> Model:
    """Nothing but tokens are gone."""
    anatomy = gc.inspect(llama)
    return gc.clone(llama, gc.plan(anatomy, None, gc.Target(), tokens=KEPT), anatomy=anatomy)


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    mask = np.ones((4, 12), np.int64)
    return [{"input_ids": rng.integers(0, len(KEPT), (4, 12)), "attention_mask": mask} for _ in range(2)]


def test_logits_of_its_tokens_are_those_of_a_teacher_with_no_others(llama, small, tmp_path):
    """The parent's logits at the tokens kept are the clone's own: it teaches what the clone itself would."""
    by_parent = run(small, batches(), OPTIONS, Beside(teacher=llama)).history.losses
    by_itself = run(small, batches(), OPTIONS, Beside(teacher=small)).history.losses
    np.testing.assert_allclose(by_parent, by_itself, rtol=1e-4)
    cached = run(small, batches(), OPTIONS, Beside(teacher=llama, cache=tmp_path, data="here")).history.losses
    np.testing.assert_allclose(cached, by_parent, rtol=1e-2)


def test_a_stranger_with_other_tokens_is_refused(llama, small):
    anatomy = gc.inspect(llama)
    other = gc.clone(llama, gc.plan(anatomy, None, gc.Target(), tokens=KEPT[:40]), anatomy=anatomy)
    with pytest.raises(InvalidTarget, match=r"64 of its parent's tokens, and the teacher \(40\) is another model"):
        run(small, batches(), OPTIONS, Beside(teacher=other))
