"""Training: the loss falls, the same seed gives the same curve, and what cannot be trained on is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from graphclone.errors import BadData
from graphclone.graph import load
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.training import TrainingDiverged, TrainingOptions, evaluate, reinitialised, train
from graphclone.pytorch.training.optimiser import adamw
from graphclone.pytorch.weights import weight_map
from tests.pytorch.training.conftest import counting
from tests.tolerances import assert_close

OPTIONS = TrainingOptions(steps=12, learning_rate=3e-3)


def test_the_loss_falls_and_the_same_seed_gives_the_same_curve(llama):
    fresh = reinitialised(llama, seed=3)
    curves = [train(to_torch(fresh), counting(), OPTIONS) for _ in range(2)]
    assert curves[0].losses == curves[1].losses
    assert curves[0].losses[-1] < curves[0].losses[0] - 0.5
    assert curves[0].tokens == 12 * 4 * 15


def test_the_loss_is_the_cross_entropy_of_the_next_token_without_padding(module):
    batch = counting(1)[0]
    batch["attention_mask"] = batch["attention_mask"].copy()
    batch["attention_mask"][0, 10:] = 0
    found = evaluate(module, [batch])
    ids = torch.from_numpy(batch["input_ids"])
    with torch.no_grad():
        logits = module(input_ids=ids, attention_mask=torch.from_numpy(batch["attention_mask"]))["logits"]
    picked = F.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    seen = torch.from_numpy(batch["attention_mask"])[:, 1:].bool()
    assert math.isclose(found, -float(picked[seen].mean()), rel_tol=1e-5)


def test_evaluation_changes_nothing_and_weighs_tokens(module):
    before = {n: p.clone() for n, p in module.named_parameters()}
    small, large = counting(1, batch=1, length=5)[0], counting(1)[0]
    one, two = evaluate(module, [small]), evaluate(module, [large])
    n, m = 4, 4 * 15
    assert math.isclose(evaluate(module, [small, large]), (one * n + two * m) / (n + m), rel_tol=1e-6)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_progress_and_evaluations_are_reported(module):
    seen = []
    options = TrainingOptions(steps=4, evaluate_every=2)
    history = train(module, counting(2), options, held_out=counting(1), progress=lambda *a: seen.append(a))
    assert [s[:2] for s in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [s for s, _ in history.evaluations] == [0, 2, 4]
    assert [s[2] for s in seen] == history.losses


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_keeps_the_weights(module):
    data = counting(2)
    train(module, data, TrainingOptions(steps=1))
    name, p = next((n, p) for n, p in module.named_parameters() if p.dim() == 1)
    with torch.no_grad():
        p[0] = float("nan")
    before = {n: q.clone() for n, q in module.named_parameters() if n != name}
    with pytest.raises(TrainingDiverged, match="at step 1"):
        train(module, data, OPTIONS)
    assert all(torch.equal(q, before[n]) for n, q in module.named_parameters() if n != name)


def test_gradients_are_clipped(module):
    data = counting(1)
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


def test_batches_added_up_are_one_batch(llama):
    (whole,) = counting(1, batch=8)
    parts = [{name: array[k : k + 2] for name, array in whole.items()} for k in range(0, 8, 2)]
    results = []
    for data, accumulation in (([whole], 1), (parts, 4)):
        module = to_torch(llama)
        history = train(module, data, TrainingOptions(steps=3, accumulation=accumulation))
        results.append((history.losses, module))
    assert_close(np.array(results[0][0], np.float32), np.array(results[1][0], np.float32))
    for (name, one), two in zip(results[0][1].named_parameters(), results[1][1].parameters(), strict=True):
        assert_close(one.detach().numpy(), two.detach().numpy()), name


def test_decay_is_for_matrices_alone(llama):
    module = to_torch(llama)
    decayed, plain = adamw(module, TrainingOptions(steps=1, weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in plain["params"]} == {1}


def test_the_best_weights_are_kept_where_asked(module):
    """A learning rate that ruins the model: what comes back is the step that was best, not the last."""
    data = counting(2)
    options = TrainingOptions(steps=6, learning_rate=3e-3, schedule="constant", evaluate_every=2, keep="best")
    train(module, data, options)
    good = {n: p.detach().clone() for n, p in module.named_parameters()}
    worse = TrainingOptions(steps=4, learning_rate=3.0, evaluate_every=2, keep="best")
    history = train(module, data, worse, held_out=data)
    assert history.best == history.evaluations[0]
    assert history.evaluations[-1][1] > history.best[1]
    assert all(torch.equal(p, good[n]) for n, p in module.named_parameters())


def test_bf16_computes_in_bfloat16_and_keeps_the_weights(llama):
    losses = {}
    for precision in ("fp32", "bf16"):
        module = to_torch(llama)
        losses[precision] = train(module, counting(), TrainingOptions(steps=4, precision=precision)).losses
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert losses["fp32"] != losses["bf16"]
    assert_close(np.array(losses["bf16"]), np.array(losses["fp32"]), "bfloat16")


def test_recomputed_activations_give_the_same_curve(llama):
    curves = []
    for recompute in (False, True):
        module = to_torch(llama)
        curves.append(train(module, counting(), TrainingOptions(steps=3, recompute=recompute)).losses)
        assert all("forward" not in vars(m) for m in module.modules())
    assert_close(np.array(curves[0], np.float32), np.array(curves[1], np.float32))


@pytest.mark.slow
def test_compiled_training_gives_the_same_curve(cut):
    curves = [
        train(to_torch(cut), counting(), TrainingOptions(steps=3, compile=compiled)).losses
        for compiled in (False, True)
    ]
    assert_close(np.array(curves[1], np.float32), np.array(curves[0], np.float32))


def test_dropout_is_drawn_from_the_seed(llama):
    curves = [
        train(to_torch(llama, 0.2), counting(), TrainingOptions(steps=3, dropout=0.2, seed=seed)).losses
        for seed in (0, 0, 1)
    ]
    assert curves[0] == curves[1] != curves[2]


def test_a_fresh_twin_has_the_spread_its_roles_ask_for(parent_file):
    model = load(parent_file("gpt2", exporter="torchscript"))
    fresh = reinitialised(model, seed=1).constants()
    for weight in weight_map(model):
        values = fresh[weight.initializers[0][0]]
        if weight.role == "gain":
            assert (values == 1).all()
        elif weight.role == "bias":
            assert (values == 0).all()
        else:
            assert float(values.std()) == pytest.approx(0.02, rel=0.1)
    assert {w.role for w in weight_map(model)} == {"matrix", "gain", "bias"}
    again, other = (reinitialised(model, seed=seed).constants() for seed in (1, 2))
    assert all(np.array_equal(again[name], array) for name, array in fresh.items())
    assert not all(np.array_equal(other[name], array) for name, array in fresh.items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batch"),
        ([{"attention_mask": np.ones((1, 4), np.int64)}], "needs token ids"),
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


def test_a_model_without_logits_is_refused(bert):
    module = to_torch(bert)
    given = {name: np.ones((1, 4), np.int64) for name in module.meta["graphclone.inputs"]}
    assert len(bert.graph.outputs) > 1
    with pytest.raises(BadData, match="no output is called logits"):
        train(module, [given], OPTIONS)
