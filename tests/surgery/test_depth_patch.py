"""depth-patch: exact where dropped blocks add a constant, least squares on what they add everywhere else."""

from __future__ import annotations

import json

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pipeline
from graphclone.anatomy.gaps import gaps
from graphclone.errors import InvalidTarget
from graphclone.plan import IDLE
from graphclone.surgery.corrections.passes import NOTHING
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import feeds, parent, session
from tests.surgery.silenced import answer, changed, data, measured
from tests.surgery.zoo_parent import zoo_parent
from tests.tolerances import assert_close, difference

GONE = (1, 2)


def dropped(found, method, keep=None, gone=GONE, batches=28):
    plan = found.plan(keep or {}, method, gone)
    batches = data(found.model, batches)
    second = pipeline.measure_kept(found.model, plan, batches, anatomy=found.anatomy, provider="cpu", threads=1)
    first = measured(found, len(batches), moments="least-squares" in method)
    return plan, clone(found.model, found.anatomy, plan, first, second)


def constant(found, blocks):
    """What some blocks write is their biases alone."""
    constants, edits = found.model.constants(), {}
    makers = {t.name: n for n in found.model.graph.nodes for t in n.outputs}
    for linear in found.anatomy.linears:
        index = next((b.index for b in found.anatomy.stacks[0].blocks if linear.node in b.nodes), None)
        if index in blocks and "residual" in linear.writes:
            edits[linear.weight] = np.zeros_like
            for node in (makers[linear.output], *makers[linear.output].outputs[0].outputs):
                for tensor in node.inputs if node.op in ("Add", "Gemm") else ():
                    if isinstance(tensor, gs.Constant) and constants[tensor.name].ndim == 1:
                        edits[tensor.name] = lambda array: 0.5 * np.sin(np.arange(array.size))
    return changed(found, edits)


@pytest.mark.parametrize(("recipe", "exporter"), [("gpt2", "torchscript"), ("gpt2", "dynamo"), ("vit-tiny", "dynamo")])
def test_it_is_exact_where_dropped_blocks_add_a_constant(recipe, exporter):
    found = constant(parent(recipe, exporter), GONE)
    plan, made = dropped(found, "depth-patch", batches=48)
    fed = feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted, "float16")  # the ridge is left of it
    sliced = answer(found.cut({}, drop=GONE), fed)
    assert difference(sliced, wanted) > 20 * difference(answer(made, fed), wanted)
    report = verify(found.model, made, plan)
    assert report.passed, report.summary


@pytest.mark.parametrize(("recipe", "exporter"), [("llama", "torchscript"), ("gpt2", "dynamo")])
def test_it_is_the_ridge_answer_on_the_activations(recipe, exporter):
    """Against NumPy in float64, the width cut at once: what the last kept block has to write of the kept neurons."""
    found = parent(recipe, exporter)
    residual = found.anatomy.stacks[0].residual
    kept, ffn = np.arange(0, found.anatomy.groups[residual].size, 2), np.arange(100)
    (group,) = [part.group for part in found.anatomy.stacks[0].blocks[0].feed_forward]
    plan, made = dropped(found, "norm-gain+least-squares+depth-patch", {residual: kept, group: ffn})
    assert verify(found.model, made, plan).passed
    (gap,) = gaps(found.anatomy, plan.drop_blocks)
    assert (gap.block, gap.dropped) == (0, GONE)
    note = json.loads(made.metadata["graphclone.corrections"])[gap.name]
    assert note["error"] < note["error of the slice"]
    shown = found.model.copy()
    names = (gap.inner.value, gap.writer.value, gap.leaves, gap.arrives)
    shown.graph.outputs = [shown.graph.tensors()[name] for name in names]
    for tensor in shown.graph.outputs:
        tensor.dtype = np.float32
    batches = [fed for k, fed in enumerate(data(found.model, 28)) if (k + 1) % 5]
    rows = [[a.astype(np.float64) for a in session(shown).run(None, fed)] for fed in batches]
    a, y, leaves, arrives = (
        np.concatenate([laid_out(r[k])[:, ::2].reshape(-1, r[k].shape[-1]) for r in rows]) for k in range(4)
    )
    z, t = a[:, ffn], (y + arrives - leaves)[:, kept]
    (linear,) = [
        p for p in found.anatomy.linears if p.weight == found.anatomy.stacks[0].blocks[0].feed_forward[0].down[0]
    ]
    mean = (z.mean(0), t.mean(0)) if recipe == "gpt2" else (0.0, 0.0)  # a bias takes the means
    z, t = z - mean[0], t - mean[1]
    zz = z.T @ z / len(z)
    wanted = np.linalg.solve(zz + note["lambda"] * np.trace(zz) / len(zz) * np.eye(len(zz)), z.T @ t / len(z))
    after = made.constants()[linear.weight]
    assert_close(np.moveaxis(after, linear.in_axis, 0), wanted.astype(np.float32))


def laid_out(array):
    """[batch, length, width], also where a product flattened it."""
    return array if array.ndim == 3 else array.reshape(8, 32, -1)


def test_a_branch_that_is_normed_before_it_is_added_keeps_its_slice():
    found = zoo_parent("gemma2", "torchscript")
    plan, made = dropped(found, "depth-patch", gone=(1,), batches=4)
    (note,) = json.loads(made.metadata["graphclone.corrections"]).values()
    assert note == {"kept the slice": "what it writes is normed or multiplied before it is added"}
    plain = clone(found.model, found.anatomy, found.plan({}, "none", (1,)))
    assert {n: a.tobytes() for n, a in made.constants().items()} == {
        n: a.tobytes() for n, a in plain.constants().items()
    }
    assert verify(found.model, made, plan).passed


def test_nothing_is_patched_where_the_first_blocks_go_and_nothing_measured_is_refused():
    found = parent("llama", "dynamo")
    plan = found.plan({}, "depth-patch", (0,))
    assert not pipeline.takes_second_pass(found.anatomy, plan)
    made = clone(found.model, found.anatomy, plan)
    (note,) = json.loads(made.metadata["graphclone.corrections"]).items()
    assert note == ("depth-patch", {IDLE: NOTHING["depth-patch"]})
    with pytest.raises(InvalidTarget, match="method depth-patch measures once more"):
        clone(found.model, found.anatomy, found.plan({}, "depth-patch", (1,)))


def test_gaps_are_runs_behind_a_block_that_stays():
    anatomy = parent("llama", "dynamo").anatomy
    blocks = len(anatomy.stacks[0].blocks)
    name = anatomy.stacks[0].name
    assert [(g.block, g.dropped) for g in gaps(anatomy, {name: (0, 2)})] == [(1, (2,))]
    assert list(gaps(anatomy, {name: range(blocks - 1)})) == []
    assert list(gaps(anatomy, {name: (1,)}, {name: (0,)})) == []
