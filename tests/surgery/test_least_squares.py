"""least-squares: exact where the dropped neurons repeat the kept ones, never worse than the slice on unseen tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphclone.errors import InvalidTarget
from graphclone.surgery.corrections.fitting import ENOUGH, GROWTH, Moments, Wanted, ridge
from graphclone.surgery.corrections.fitting import repaired as best
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import feeds, parent
from tests.surgery.silenced import answer, changed, measured
from tests.tolerances import assert_close, difference

METHOD = "least-squares"
KEPT = np.array([0, 2, 3, 5, 6, 9, 10, 11])


def moments(fitted, unseen=None):
    def second(a):
        return a.T @ a / len(a)

    held = (None, None) if unseen is None else (second(unseen), unseen.mean(0))
    return Moments(second(fitted), fitted.mean(0), *held)


def repaired(matrix, kept, moments):
    found = best(Wanted(kept, np.arange(len(matrix)), matrix, matrix[kept]), moments)
    return found.values, found.note


def correlated(rng, tokens, width=12, rank=9):
    mixing = np.random.default_rng(5).standard_normal((rank, width))
    return rng.standard_normal((tokens, rank)) @ mixing + 0.05 * rng.standard_normal((tokens, width))


def test_it_is_the_least_squares_answer(rng):
    """Against NumPy's own solver on the tokens themselves, in float64."""
    a, w = correlated(rng, 3000), rng.standard_normal((12, 5))
    wanted, *_ = np.linalg.lstsq(a[:, KEPT], a @ w, rcond=None)
    second = moments(a).second
    assert_close(ridge(second[np.ix_(KEPT, KEPT)], second[KEPT] @ w, 0.0), wanted)


def test_the_error_it_reports_is_that_on_the_unseen_tokens(rng):
    a, w = correlated(rng, 4000), rng.standard_normal((12, 5))
    unseen = a[3000:]
    made, note = repaired(w, KEPT, moments(a[:3000], unseen))
    whole = np.square(unseen @ w).sum()
    assert note["error"] == pytest.approx(np.square(unseen @ w - unseen[:, KEPT] @ made).sum() / whole, rel=1e-9)
    lost = np.square(unseen @ w - unseen[:, KEPT] @ w[KEPT]).sum() / whole
    assert note["error of the slice"] == pytest.approx(lost, rel=1e-9)
    assert note["error"] < 0.5 * lost


def test_on_unseen_tokens_it_is_never_worse_than_the_slice(rng):
    """Fitted on tokens of noise, or of another kind, the slice stays; few that are alike are enough for better."""
    w = rng.standard_normal((12, 5))
    lying = correlated(rng, 400)
    other = lying.copy()
    other[:, np.setdiff1d(np.arange(12), KEPT)] *= -1.0
    made, note = repaired(w, KEPT, moments(lying, other))
    assert made is None
    assert "better on the tokens held out" in note["kept the slice"]
    for tokens in (10, 14, 30, 100):
        a, unseen = rng.standard_normal((tokens, 12)), rng.standard_normal((2000, 12))
        made, note = repaired(w, KEPT, moments(a, unseen))
        assert made is None
        assert note["error"] > note["error of the slice"]
    for tokens in (30, 100, 300):
        made, note = repaired(w, KEPT, moments(correlated(rng, tokens), correlated(rng, 2000)))
        assert made is not None
        assert note["error"] < 0.7 * note["error of the slice"]


def test_the_ridge_keeps_the_weights_from_growing(rng):
    a = rng.standard_normal((3000, 12))
    a[:, KEPT] *= 1e-2  # what is kept hardly moves, and would have to be blown up
    a[:, KEPT] += 1e-3 * a[:, [1, 4, 7, 8, 1, 4, 7, 8]]
    w = rng.standard_normal((12, 5))
    made, _ = repaired(w, KEPT, moments(a[:2000], a[2000:]))
    assert made is not None
    assert np.linalg.norm(made) <= GROWTH * np.linalg.norm(w[KEPT])


def test_singular_moments_have_an_answer(rng):
    a = np.zeros((500, 12))
    a[:, :3] = rng.standard_normal((500, 3))
    made, _ = repaired(rng.standard_normal((12, 5)), KEPT, moments(a))
    assert np.isfinite(made).all()
    made, _ = repaired(rng.standard_normal((12, 5)), KEPT, moments(np.zeros((500, 12))))
    assert np.isfinite(made).all()


def repeated(found, kept, dropped):
    """FFN neurons dropped repeat kept ones."""
    groups = found.anatomy.groups
    edits = {}
    for block in found.anatomy.stacks[0].blocks:
        (part,) = block.feed_forward
        for ref in groups[part.group].axes:
            if ref.tensor in part.down:
                continue

            def repeat(array, axis=ref.axis):
                moved = np.moveaxis(array, axis, 0)
                moved[dropped] = moved[kept]
                return np.moveaxis(moved, 0, axis)

            edits[ref.tensor] = repeat
    return changed(found, edits)


def cut_ffn(found, kept, method, statistics=None):
    keep = {part.group: kept for block in found.anatomy.stacks[0].blocks for part in block.feed_forward}
    plan = found.plan(keep, method)
    return plan, clone(found.model, found.anatomy, plan, statistics)


@pytest.mark.parametrize("recipe", ["llama", "gpt2", "bert"])
def test_a_clone_equals_its_parent_where_dropped_neurons_repeat_kept_ones(recipe):
    whole = parent(recipe, "dynamo")
    size = whole.anatomy.groups[whole.anatomy.stacks[0].blocks[0].feed_forward[0].group].size
    dropped, kept = np.arange(5, 25), np.arange(size - 20, size)
    found = repeated(whole, kept, dropped)
    statistics = measured(found, 32, moments=True)
    left = np.setdiff1d(np.arange(size), dropped)
    plan, made = cut_ffn(found, left, METHOD, statistics)
    fed = feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted, "float16")  # the ridge is left of it
    sliced = answer(cut_ffn(found, left, "none")[1], fed)
    assert difference(sliced, wanted) > 20 * difference(answer(made, fed), wanted)
    report = verify(found.model, made, plan)
    assert report.passed, report.summary
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert len(notes) == len(found.anatomy.stacks[0].blocks)
    assert all(note["error"] < note["error of the slice"] for note in notes.values())


def test_heads_are_made_up_for_too():
    found = parent("gpt2", "torchscript")
    statistics = measured(found, 32, moments=True)
    heads = {
        g.name: range(g.size - 1) for g in found.anatomy.groups.values() if g.kind == "head" and g.block is not None
    }
    plan = found.plan(heads, METHOD)
    made = clone(found.model, found.anatomy, plan, statistics)
    assert verify(found.model, made, plan).passed
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in notes} == {"attention"}
    fed = feeds(found.model, 4, 31, seed=3)
    wanted = answer(found.model, fed)
    sliced = answer(clone(found.model, found.anatomy, found.plan(heads)), fed)
    assert np.square(answer(made, fed) - wanted).sum() < np.square(sliced - wanted).sum()


def test_too_few_tokens_leave_the_slices():
    found = parent("llama", "dynamo")
    kept = np.arange(100)
    _, made = cut_ffn(found, kept, METHOD, measured(found, 1, (2, 8), moments=True))
    _, plain = cut_ffn(found, kept, "none")
    assert {n: a.tobytes() for n, a in made.constants().items()} == {
        n: a.tobytes() for n, a in plain.constants().items()
    }
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert all(f"{ENOUGH * 160} are needed" in note["kept the slice"] for note in notes.values())


def test_statistics_without_moments_are_refused():
    found = parent("llama", "dynamo")
    with pytest.raises(InvalidTarget, match="needs second moments"):
        cut_ffn(found, np.arange(100), METHOD, measured(found, 1))


def test_a_neuron_that_never_changes_goes_into_the_bias():
    """mean-bias: exact where dropped neurons are constant."""
    found = parent("gpt2", "torchscript")
    dropped = np.arange(10, 40)
    parts = [part for block in found.anatomy.stacks[0].blocks for part in block.feed_forward]
    edits = {}
    for part in parts:
        for ref in found.anatomy.groups[part.group].axes:
            if ref.tensor not in part.down:
                edits[ref.tensor] = lambda array, axis=ref.axis: constant(array, axis, dropped)
    still = changed(found, edits)
    left = np.setdiff1d(np.arange(160), dropped)
    plan, made = cut_ffn(still, left, "mean-bias", measured(still, 4))
    fed = feeds(still.model, 2, 9)
    wanted = answer(still.model, fed)
    assert_close(answer(made, fed), wanted)
    assert difference(answer(cut_ffn(still, left, "none")[1], fed), wanted) > 1e-2
    assert verify(still.model, made, plan).passed


def constant(array, axis, dropped):
    """Weights of zero; biases, which have one axis, of one and a half."""
    moved = np.moveaxis(array, axis, 0)
    moved[dropped] = 1.5 if array.ndim == 1 else 0.0
    return np.moveaxis(moved, 0, axis)
