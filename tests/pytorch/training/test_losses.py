"""Losses against their definitions, and what they do at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphclone.pytorch.training import losses
from graphclone.pytorch.training.losses import IGNORED, Taught
from tests.tolerances import assert_close


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 5, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    seen = torch.ones(2, 5, dtype=torch.bool)
    seen[0, 3:] = False
    return ours, theirs, seen


def test_divergence_is_forward_kl_over_what_is_seen(logits):
    ours, theirs, seen = logits
    p, q = torch.softmax(theirs, -1), torch.softmax(ours, -1)
    expected = (p * (p / q).log()).sum(-1)[seen].mean()
    assert_close(losses.divergence(ours, Taught(theirs), seen).numpy(), expected.numpy(), "float32")


def test_divergence_to_oneself_is_nothing(logits):
    ours, _, seen = logits
    assert abs(float(losses.divergence(ours, Taught(ours), seen))) < 1e-6


def test_the_top_tokens_and_the_rest_bound_it_from_below(logits):
    ours, theirs, seen = logits
    whole = float(losses.divergence(ours, Taught(theirs), seen))
    found = []
    for top in (1, 3, 6, 11):
        best = torch.log_softmax(theirs, -1).topk(top, -1)
        found.append(float(losses.divergence(ours, Taught(best.values, best.indices.int()), seen)))
    assert found == sorted(found)
    assert found[0] < whole
    assert found[-1] == pytest.approx(whole, abs=1e-5)


def test_cross_entropy_of_nothing_is_zero_and_has_a_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = losses.cross_entropy(logits, torch.full((2, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_hidden_distance_is_zero_for_the_same_direction_and_two_for_the_opposite(logits):
    ours, theirs, seen = logits
    assert float(losses.hidden_distance([ours], [3 * ours], seen)) == pytest.approx(0, abs=1e-6)
    assert float(losses.hidden_distance([ours, ours], [ours, -ours], seen)) == pytest.approx(1, abs=1e-6)
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (ours, theirs)]
    expected = (1 - (unit[0] * unit[1]).sum(-1))[seen].mean()
    assert_close(losses.hidden_distance([ours], [theirs], seen).numpy(), expected.numpy(), "float32")


def test_pooling_is_the_mean_over_what_is_seen(logits):
    ours, _, seen = logits
    found = losses.pooled(ours, seen)
    assert_close(found[0].numpy(), ours[0, :3].mean(0).numpy())
    assert_close(found[1].numpy(), ours[1].mean(0).numpy())
    assert losses.pooled(ours[:, 0], seen) is not None
    assert_close(losses.pooled(ours[:, 0], seen).numpy(), ours[:, 0].numpy())
    images = torch.randn(2, 3, 4, 7)  # places that no mask speaks of
    assert_close(losses.pooled(images, seen).numpy(), images.mean((1, 2)).numpy())


def test_embedding_distance_is_of_directions():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert float(losses.embedding_distance(a, b)) == pytest.approx(np.mean([1.0, 0.0]))
