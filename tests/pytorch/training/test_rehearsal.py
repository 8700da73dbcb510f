"""What is told from a first run: the next token is trained where later tokens are out of sight."""

from __future__ import annotations

import numpy as np
import pytest

import graphclone as gc
from graphclone.errors import InvalidTarget
from graphclone.tournament import task_of
from tests.sizing.test_scoring import AHEAD, VOCAB, predicting


def trained(how: str, **more: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    model = predicting(rng.standard_normal((VOCAB, VOCAB)), how)
    batch = {"input_ids": rng.integers(0, VOCAB, (3, 8)), **more}
    gc.train(model, [batch], gc.TrainingOptions(steps=1, task="causal-lm"))


@pytest.mark.parametrize("how", [how for how, (_, causal) in AHEAD.items() if causal])
def test_the_next_token_is_trained_where_it_is_out_of_sight(how):
    trained(how)


@pytest.mark.parametrize("how", [how for how, (_, causal) in AHEAD.items() if not causal])
def test_a_token_in_sight_is_not_to_be_predicted(how):
    with pytest.raises(InvalidTarget, match=r"logits of this model sees later tokens.* give --task masked-lm"):
        trained(how)


def test_labels_of_the_batch_are_the_users_own(rng):
    trained("the mean", labels=rng.integers(0, VOCAB, (3, 8)))


def test_a_tournament_finds_hidden_tokens_where_logits_look_ahead():
    head = np.eye(VOCAB)
    assert [task_of(predicting(head, how)) for how in ("the sum so far", "the mean")] == ["causal-lm", "masked-lm"]
