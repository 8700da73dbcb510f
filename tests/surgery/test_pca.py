"""pca: exact where the stream lies in as many directions as are kept, whatever the neurons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget
from graphclone.planner import Target
from graphclone.surgery.operate import clone
from graphclone.verification import verify
from tests.surgery.parents import feeds, parent
from tests.surgery.silenced import answer, changed, data, measured, read_axes, residual_axes, tied
from tests.surgery.zoo_parent import zoo_parent
from tests.tolerances import TOLERANCE, assert_close, difference

KEPT = 40  # of 64


def flat(found, rng):
    """All that writes the stream writes into KEPT random directions."""
    reads = read_axes(found)
    size = found.anatomy.groups[found.anatomy.stacks[0].residual].size
    directions, _ = np.linalg.qr(rng.standard_normal((size, KEPT)))
    edits = {}
    for ref in residual_axes(found):
        if ref not in reads or (ref.tensor, ref.axis) in tied(found):
            edits[ref.tensor] = lambda array, axis=ref.axis: np.moveaxis(
                np.moveaxis(array, axis, -1).astype(np.float64) @ directions @ directions.T, -1, axis
            )
    return changed(found, edits)


def cut(found, method, statistics=None, batches=12, kept=KEPT):
    residual = found.anatomy.stacks[0].residual
    plan = found.plan({residual: range(kept)}, method)
    second = pipeline.measure_kept(
        found.model, plan, data(found.model, batches), anatomy=found.anatomy, provider="cpu", threads=1
    )
    return plan, clone(found.model, found.anatomy, plan, statistics, second)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_it_is_exact_where_the_stream_lies_in_the_directions_kept(exporter, rng):
    found = flat(parent("llama", exporter), rng)
    plan, made = cut(found, "pca")
    fed = feeds(found.model, 2, 9)
    wanted = answer(found.model, fed)
    assert_close(answer(made, fed), wanted)
    statistics = measured(found, 8)
    gained = clone(found.model, found.anatomy, replace(plan, method="norm-gain"), statistics)
    assert difference(answer(gained, fed), wanted) > 100 * TOLERANCE["float32"]
    report = verify(found.model, made, plan)
    assert report.passed, report.summary
    notes = json.loads(made.metadata["graphclone.corrections"])
    assert all(note["energy kept"] == pytest.approx(1.0, abs=1e-4) for note in notes.values())


def test_least_squares_writes_in_the_same_directions(rng):
    """Repeated feed-forward neurons are made up for, and what is written is turned."""
    found = parent("llama", "dynamo")
    (ffn,) = {part.group for block in found.anatomy.stacks[0].blocks for part in block.feed_forward if block.index == 0}
    residual = found.anatomy.stacks[0].residual
    statistics = measured(found, 32, moments=True)
    keep = {residual: range(63), ffn: range(150)}
    fed = feeds(found.model, 4, 31, seed=3)
    wanted = answer(found.model, fed)
    lost = {}
    for method in ("pca", "pca+least-squares", "norm-gain+least-squares"):
        plan = found.plan(keep, method)
        second = pipeline.measure_kept(
            found.model, plan, data(found.model, 12), anatomy=found.anatomy, provider="cpu", threads=1
        )
        made = clone(found.model, found.anatomy, plan, statistics, second)
        assert verify(found.model, made, plan).passed
        lost[method] = float(np.square(answer(made, fed) - wanted).sum())
    assert lost["pca+least-squares"] < lost["pca"]
    assert lost["pca+least-squares"] < lost["norm-gain+least-squares"]


def test_a_stream_that_stays_whole_is_not_turned():
    found = parent("llama", "dynamo")
    ffn = {part.group: range(100) for block in found.anatomy.stacks[0].blocks for part in block.feed_forward}
    made = clone(found.model, found.anatomy, found.plan(ffn, "pca"))
    plain = clone(found.model, found.anatomy, found.plan(ffn, "none"))
    assert {n: a.tobytes() for n, a in made.constants().items()} == {
        n: a.tobytes() for n, a in plain.constants().items()
    }


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit-tiny"])
def test_layer_norms_are_refused_before_anything_is_measured(name):
    found = parent(name, "dynamo")
    plan = found.plan({"residual": range(KEPT)}, "pca")
    with pytest.raises(InvalidTarget, match="which subtracts a mean; leave pca out"):
        pipeline.measure_kept(found.model, plan, (), anatomy=found.anatomy)
    with pytest.raises(InvalidTarget, match="which subtracts a mean; leave pca out"):
        clone(found.model, found.anatomy, plan)
    with pytest.raises(InvalidTarget, match="pre-norm RMSNorms alone"):
        pipeline.refuse_unreachable(
            found.anatomy, Target(hidden=KEPT), importance="first", method="pca+best", depth="paper"
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [("gemma2", "Mul node .* reads the stream"), ("olmo2", "MatMul node .*q_proj.* reads the stream")],
)
def test_what_stands_between_the_sums_is_refused_by_name(name, said):
    found = zoo_parent(name, "torchscript")
    with pytest.raises(InvalidTarget, match=said):
        cut(found, "pca", kept=found.anatomy.stacks[0].hidden - 8)


def tied_llama():
    """Llama whose head is its embedding, transposed."""
    found = parent("llama", "torchscript")
    model = found.model.copy()
    model.path = None
    model.__dict__.pop("sha256", None)
    (look,) = [n for n in model.graph.nodes if n.op == "Gather" and n.inputs[0].name.endswith("embed_tokens.weight")]
    (head,) = [n for n in model.graph.nodes if n.outputs[0].name == "logits"]
    turned = gs.Variable("turned", np.float32)
    model.graph.nodes.insert(0, gs.Node("Transpose", "turn", {"perm": [1, 0]}, [look.inputs[0]], [turned], domain=""))
    head.inputs[1] = turned
    return replace(found, model=model, anatomy=inspect(model))


def test_a_tied_head_is_untied_and_counted(rng):
    """The last norm's gain goes into the head alone."""
    found = flat(tied_llama(), rng)
    plan, made = cut(found, "pca")
    report = verify(found.model, made, plan)
    assert report.passed, report.summary
    fed = feeds(found.model, 2, 9)
    assert_close(answer(made, fed), answer(found.model, fed))
    after = inspect(made).parameters
    assert pipeline.parameters(found.model, plan, anatomy=found.anatomy) == after
    other = pipeline.parameters(found.model, replace(plan, method="norm-gain"), anatomy=found.anatomy)
    assert after == other + KEPT * 131


def test_with_too_few_tokens_it_is_refused():
    with pytest.raises(InvalidTarget, match=r"moments of 256 tokens at .*, 1280 are needed"):
        cut(parent("llama", "dynamo"), "pca", batches=2)
