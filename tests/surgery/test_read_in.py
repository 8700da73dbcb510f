"""read-in: exact where dropped neurons repeat kept ones, least squares everywhere, the slice where it is no better."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphclone import pipeline
from graphclone.errors import InvalidTarget
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import feeds, parent
from tests.surgery.silenced import answer, changed, data, measured, read_axes, residual_axes
from tests.tolerances import assert_close, difference

METHOD = "norm-gain+read-in"


def halved(found, method, batches=24):
    """The plan that keeps every other neuron of the stream, its clone, and the second pass."""
    residual = found.anatomy.stacks[0].residual
    kept = np.arange(0, found.anatomy.groups[residual].size, 2)
    plan = found.plan({residual: kept}, method)
    first = measured(found, batches)
    second = pipeline.measure_kept(
        found.model, plan, data(found.model, batches), anatomy=found.anatomy, provider="cpu", threads=1
    )
    return plan, clone(found.model, found.anatomy, plan, first, second), second


def softly(gain):
    gain[1::2] *= 0.5
    return gain


def doubled(found):
    """Each odd neuron of the stream is what the even one before it is; it is read with half the gain."""
    reads = read_axes(found)
    stack = found.anatomy.stacks[0]
    edits = dict.fromkeys([n.gain for n in [*(m for b in stack.blocks for m in b.norms), *stack.norms]], softly)
    for ref in residual_axes(found):
        if ref not in reads:

            def repeat(array, axis=ref.axis):
                moved = np.moveaxis(array, axis, 0)
                moved[1::2] = moved[0::2]
                return np.moveaxis(moved, 0, axis)

            edits[ref.tensor] = repeat
    return changed(found, edits)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_it_is_exact_where_dropped_neurons_repeat_kept_ones(exporter):
    found = doubled(parent("llama", exporter))
    plan, made, _ = halved(found, METHOD)
    fed = feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted, "float16")  # the ridge is left of it
    _, sliced, _ = halved(found, "norm-gain")
    assert difference(answer(sliced, fed), wanted) > 20 * difference(answer(made, fed), wanted)
    report = verify(found.model, made, plan)
    assert report.passed, report.summary


def normalised(x, epsilon, *, centred):
    x = x - x.mean(1, keepdims=True) if centred else x
    return x / np.sqrt((x**2).mean(1, keepdims=True) + epsilon)


@pytest.mark.parametrize(("recipe", "exporter"), [("llama", "dynamo"), ("gpt2", "torchscript"), ("vit-tiny", "dynamo")])
def test_it_is_the_ridge_answer_on_the_activations(recipe, exporter):
    """Against NumPy in float64 on what the norms read: gains, biases and all."""
    found = parent(recipe, exporter)
    batches = data(found.model, 24)
    plan, made, second = halved(found, METHOD)
    assert verify(found.model, made, plan).passed
    block = found.anatomy.stacks[0].blocks[1]
    norm, kept = block.norms[-1], np.asarray(plan.keep["residual"])
    notes = json.loads(made.metadata["graphclone.corrections"])
    (linear,) = [p for p in found.anatomy.linears if p.weight == block.feed_forward[0].up[-1]]
    note = notes[f"{linear.output}.read-in"]
    assert note["error"] < note["error of the slice"]
    shown = found.model.copy()
    shown.graph.outputs = [shown.graph.tensors()[norm.input]]
    shown.graph.outputs[0].dtype = np.float32
    rows = [answer(shown, fed)[:, ::2].reshape(-1, norm.width).astype(np.float64) for fed in batches]
    before, after = found.model.constants(), made.constants()
    zero = np.zeros(norm.width, np.float32)
    gain, bias = before[norm.gain].astype(np.float64), before.get(norm.bias, zero).astype(np.float64)
    own, shift = after[norm.gain].astype(np.float64), after.get(norm.bias, zero[kept]).astype(np.float64)
    fitted = np.concatenate([r for k, r in enumerate(rows) if (k + 1) % 5])
    centred = norm.kind == "LayerNorm"
    y = normalised(fitted, norm.epsilon, centred=centred) * gain + bias
    z = normalised(fitted[:, kept], norm.epsilon, centred=centred) * own + shift
    if norm.bias is not None:  # what is added has a bias to go to
        y, z = y - y.mean(0), z - z.mean(0)
    weight = np.moveaxis(before[linear.weight].astype(np.float64), linear.in_axis, 0)
    zz = z.T @ z / len(z)
    system = zz + note["lambda"] * np.trace(zz) / len(zz) * np.eye(len(zz))
    wanted = np.linalg.solve(system, z.T @ y / len(z) @ weight)
    assert_close(np.moveaxis(after[linear.weight], linear.in_axis, 0), wanted.astype(np.float32))
    assert second.sites[f"{norm.site}.read-in"]["unseen_moment_count"] > 0


def test_a_head_tied_to_the_embedding_keeps_its_slice():
    found = parent("gpt2", "dynamo")
    plan, made, _ = halved(found, METHOD)
    (tied,) = [n for n, a in made.constants().items() if a.ndim == 2 and len(made.graph.tensors()[n].outputs) > 1]
    assert np.array_equal(made.constants()[tied], found.model.constants()[tied][:, plan.keep["residual"]])


def test_with_too_few_tokens_the_slices_stay():
    found = parent("llama", "dynamo")
    _, made, _ = halved(found, "read-in", batches=2)
    _, plain, _ = halved(found, "norm-gain", batches=2)
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert all("are needed" in note["kept the slice"] for note in notes.values())
    for name, array in made.constants().items():
        if array.ndim == 2:
            assert array.tobytes() == plain.constants()[name].tobytes()


def test_without_a_second_pass_it_is_refused():
    found = parent("llama", "dynamo")
    plan = found.plan({"residual": range(32)}, METHOD)
    with pytest.raises(InvalidTarget, match="method read-in measures once more what the plan keeps: give --data"):
        clone(found.model, found.anatomy, plan, measured(found, 1))
    other = found.plan({"residual": range(20)}, METHOD)
    second = pipeline.measure_kept(found.model, other, data(found.model, 1), anatomy=found.anatomy, provider="cpu")
    with pytest.raises(InvalidTarget, match="with what this plan keeps"):
        clone(found.model, found.anatomy, plan, measured(found, 1), second)
