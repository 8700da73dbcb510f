"""Training: the loss falls, the same seed gives the same curve, and what cannot be trained on is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from graphclone import graph
from graphclone.errors import BadData, InvalidTarget
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.train import (
    TrainingDiverged,
    TrainingOptions,
    causal_loss,
    evaluate,
    reinitialise,
    train,
)

OPTIONS = TrainingOptions(steps=12, learning_rate=3e-3)


def batches(count=4, batch=4, length=16):
    """Counting: each token is the one before plus one, so there is something to learn."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 40, (count, batch, 1))
    ids = (starts + np.arange(length)) % 60
    return [{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids]


@pytest.fixture
def module(parent_file):
    return to_torch(graph.load(parent_file("llama", exporter="dynamo")))


def test_the_loss_falls_and_the_same_seed_gives_the_same_curve(parent_file):
    model = graph.load(parent_file("llama", exporter="dynamo"))
    curves = []
    for _ in range(2):
        module = to_torch(model)
        reinitialise(module, seed=3)
        curves.append(train(module, batches(), OPTIONS))
    assert curves[0].losses == curves[1].losses
    assert curves[0].losses[-1] < curves[0].losses[0] - 0.5
    assert curves[0].tokens == 12 * 4 * 15


def test_the_loss_is_the_cross_entropy_of_the_next_token_without_padding(module):
    batch = batches(1)[0]
    batch["attention_mask"] = batch["attention_mask"].copy()
    batch["attention_mask"][0, 10:] = 0
    loss, tokens = causal_loss(module.eval(), batch)
    ids = torch.from_numpy(batch["input_ids"])
    logits = module(input_ids=ids, attention_mask=torch.from_numpy(batch["attention_mask"]))["logits"]
    picked = F.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    seen = torch.from_numpy(batch["attention_mask"])[:, 1:].bool()
    assert tokens == int(seen.sum())
    torch.testing.assert_close(loss, -picked[seen].mean())


def test_evaluation_changes_nothing_and_weighs_tokens(module):
    before = {n: p.clone() for n, p in module.named_parameters()}
    small, large = batches(1, batch=1, length=5)[0], batches(1)[0]
    one, n = causal_loss(module, small)
    two, m = causal_loss(module, large)
    assert math.isclose(evaluate(module, [small, large]), (one.item() * n + two.item() * m) / (n + m), rel_tol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_progress_and_evaluations_are_reported(module):
    seen = []
    options = TrainingOptions(steps=4, evaluate_every=2)
    history = train(module, batches(2), options, held_out=batches(1), progress=lambda *a: seen.append(a))
    assert [s[:2] for s in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [s for s, _ in history.evaluations] == [2, 4]
    assert [s[2] for s in seen] == history.losses


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_keeps_the_weights(module):
    data = batches(2)
    train(module, data, TrainingOptions(steps=1))
    name, p = next((n, p) for n, p in module.named_parameters() if p.dim() == 1)
    with torch.no_grad():
        p[0] = float("nan")
    before = {n: q.clone() for n, q in module.named_parameters() if n != name}
    with pytest.raises(TrainingDiverged, match="at step 1"):
        train(module, data, OPTIONS)
    assert all(torch.equal(q, before[n]) for n, q in module.named_parameters() if n != name)


def test_gradients_are_clipped(module):
    data = batches(1)
    norm = train(module, data, TrainingOptions(steps=1, learning_rate=1e-9)).gradient_norms[0]
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *rest: seen.append(
            torch.norm(torch.stack([p.grad.norm() for g in optimizer.param_groups for p in g["params"]]))
        )
    )
    try:
        train(module, data, TrainingOptions(steps=1, learning_rate=1e-9, clip=norm / 4))
    finally:
        hook.remove()
    assert math.isclose(float(seen[0]), norm / 4, rel_tol=1e-3)


def test_rates_warm_up_and_fall_along_a_cosine():
    options = TrainingOptions(steps=100, learning_rate=1.0, warmup=0.1, final=0.1)
    rates = [options.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55, abs=0.01)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_a_fresh_twin_has_the_spread_its_roles_ask_for(parent_file):
    module = to_torch(graph.load(parent_file("gpt2", exporter="torchscript")))
    reinitialise(module, seed=1)
    first = {n: p.detach().clone() for n, p in module.named_parameters()}
    for weight in weights(module):
        values = first[weight.name]
        if weight.role == "gain":
            assert bool((values == 1).all())
        elif weight.role == "bias":
            assert bool((values == 0).all())
        else:
            assert float(values.std()) == pytest.approx(0.02, rel=0.1)
    assert {w.role for w in weights(module)} == {"matrix", "gain", "bias"}
    reinitialise(module, seed=1)
    assert all(torch.equal(p, first[n]) for n, p in module.named_parameters())
    reinitialise(module, seed=2)
    assert not all(torch.equal(p, first[n]) for n, p in module.named_parameters())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batch"),
        ([{"attention_mask": np.ones((1, 4), np.int64)}], "needs input_ids"),
        ([{"input_ids": np.ones((1, 4), np.int64)}], "attention_mask is not in the batch"),
        (
            [{"input_ids": np.ones((1, 1), np.int64), "attention_mask": np.ones((1, 1), np.int64)}],
            "no token to predict",
        ),
    ],
    ids=["empty", "no-ids", "no-mask", "one-token"],
)
def test_data_that_cannot_be_trained_on_is_refused(module, data, message):
    with pytest.raises(BadData, match=message):
        train(module, data, OPTIONS)


def test_a_model_without_logits_is_refused(parent_file):
    module = to_torch(graph.load(parent_file("bert", exporter="dynamo")))
    given = {name: np.ones((1, 4), np.int64) for name in module.meta["graphclone.inputs"]}
    if len(module(**{n: torch.ones(1, 4, dtype=torch.int64) for n in given})) > 1:
        with pytest.raises(BadData, match="no output is called logits"):
            causal_loss(module, given)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 2.0}, {"clip": -1.0}])
def test_options_are_checked(wrong):
    with pytest.raises(InvalidTarget, match="training takes"):
        TrainingOptions(**{"steps": 3, **wrong})


def test_only_imported_modules_can_be_reinitialised():
    with pytest.raises(InvalidTarget, match="to_torch"):
        reinitialise(torch.nn.Linear(2, 2), seed=0)
