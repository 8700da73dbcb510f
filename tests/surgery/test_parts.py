"""Attention-only and feed-forward-only removal: the parent whose branch adds zeros, in every architecture."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph, pipeline
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget
from graphclone.plan import Plan
from graphclone.planner import Target
from models.building import cache_folder
from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import outputs, parent, with_constants, zeroed
from tests.tolerances import assert_close
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.oracles import stepping
from tools.zoo.rows import ROWS

KINDS = ("attention", "feed_forward")
CASES = [(*cell, kind) for cell in SEEDED_EXPORTS for kind in KINDS]


def plan_of(anatomy, kind, blocks, stack="blocks", **more):
    return Plan(anatomy.fingerprint, {}, method="none", **{f"drop_{kind}": {stack: tuple(blocks)}}, **more)


def silenced(model, anatomy, kind, blocks):
    """The parent whose branches write zeros: their last matrices and the biases after them."""
    values, constants = {}, model.constants()
    makers = {t.name: n for n in model.graph.nodes for t in n.outputs}
    (stack,) = anatomy.stacks
    for block in stack.blocks:
        if block.index not in blocks:
            continue
        parts = [a.o for a in block.attention] if kind == "attention" else [f.down for f in block.feed_forward]
        for linear in anatomy.linears:
            if linear.output in block.nodes and any(linear.weight in weights for weights in parts):
                values[linear.weight] = np.zeros_like(constants[linear.weight])
                for node in (makers[linear.output], *makers[linear.output].outputs[0].outputs):
                    biases = [t for t in node.inputs if isinstance(t, gs.Constant) and t.values.ndim == 1]
                    values |= {t.name: np.zeros_like(t.values) for t in biases if node.op in ("Add", "Gemm")}
    assert values
    return with_constants(model, values)


@pytest.mark.parametrize(("name", "exporter", "kind"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("blocks", [(1,), (0, 2)], ids=str)
def test_a_clone_without_a_part_is_the_parent_whose_part_adds_nothing(name, exporter, kind, blocks):
    found = parent(name, exporter)
    plan = plan_of(found.anatomy, kind, blocks)
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    reference = silenced(found.model, found.anatomy, kind, blocks)
    for got, want in zip(outputs(made), outputs(reference), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
    pipeline.verify(found.model, made, plan).raise_if_failed()
    gone = {
        w
        for b in found.anatomy.stacks[0].blocks
        if b.index in blocks
        for part in (
            [(*a.q, *a.k, *a.v, *a.o) for a in b.attention]
            if kind == "attention"
            else [(*f.up, *f.down) for f in b.feed_forward]
        )
        for w in part
    }
    assert gone
    assert not gone & made.constants().keys()


@pytest.mark.parametrize(("name", "exporter", "kind"), CASES, ids=["-".join(case) for case in CASES])
def test_the_clone_can_be_read_and_cut_again(name, exporter, kind):
    found = parent(name, exporter)
    made = pipeline.clone(found.model, plan_of(found.anatomy, kind, (1,)), anatomy=found.anatomy)
    anatomy = inspect(made)
    (stack,) = anatomy.stacks
    assert [b.index for b in stack.blocks] == [0, 1, 2]
    has = [(len(b.attention), len(b.feed_forward)) for b in stack.blocks]
    assert has == [(1, 1), (0, 1) if kind == "attention" else (1, 0), (1, 1)]
    assert [g.size for g in anatomy.groups.values() if g.kind == "ffn"] == [
        found.anatomy.stacks[0].blocks[0].feed_forward[0].ffn
    ] * (2 + (kind == "attention"))
    again = pipeline.clone(made, Plan(anatomy.fingerprint, {}, {"blocks": (1,)}, method="none"), anatomy=anatomy)
    whole = pipeline.clone(
        found.model, Plan(found.anatomy.fingerprint, {}, {"blocks": (1,)}, method="none"), anatomy=found.anatomy
    )
    for got, want in zip(outputs(again), outputs(whole), strict=True):
        for a, b in zip(got, want, strict=True):
            if found.name != "bert":  # a post-norm block leaves its norm behind
                assert_close(a, b)


FORMS = {  # (row, column) -> stacks whose parts are dropped
    ("gpt-neox", "torchscript"): ("blocks",),  # both branches in one sum with the stream
    ("gemma2", "torchscript"): ("blocks",),  # a norm after each branch
    ("t5", "torchscript"): ("stack0", "stack1"),  # positions are made in the first block, for all; cross-attention
    ("gpt2", "fused-torchscript"): ("blocks",),  # the sum is inside a SkipLayerNormalization
    ("qwen3", "cache-torchscript"): ("blocks",),  # its cache goes with an attention
}


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def form(request):
    row, column = request.param
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[row], COLUMNS[column], folder):
        build.build(ROWS[row], COLUMNS[column], folder)
    model = graph.load(build.file_of(ROWS[row], COLUMNS[column], folder))
    return model, pipeline.inspect(model), FORMS[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_left_out_of_whatever_sum_takes_it_in(form, kind):
    """The examiner's oracle: the parent in which the weights that the clone lacks are zero."""
    model, anatomy, stacks = form
    for stack in stacks:
        plan = plan_of(anatomy, kind, (0,), stack)
        made = pipeline.clone(model, plan, anatomy=anatomy)
        report = pipeline.verify(model, made, plan)
        report.raise_if_failed()
        (zeroed,) = [c for c in report.checks if c.name == "equals the zeroed parent"]
        assert zeroed.verdict.value == "passed", zeroed.detail
        caches = [t.name for t in made.graph.inputs if "past" in t.name]
        if caches:
            left = 2 if kind == "attention" else 3
            assert sorted(caches) == sorted(f"past_key_values.{k}.{p}" for k in range(left) for p in ("key", "value"))
            assert len([t for t in made.graph.outputs if "present" in t.name]) == 2 * left
            assert float(stepping(made)) < 1e-4


def test_a_part_that_is_not_there_is_refused():
    found = parent("gpt2", "torchscript")
    for chosen, said in (({"blocks": (3,)}, "no attention in block 3"), ({"decoder": (0,)}, "no stack named decoder")):
        plan = Plan(found.anatomy.fingerprint, {}, method="none", drop_attention=chosen)
        with pytest.raises(InvalidTarget, match=said):
            pipeline.clone(found.model, plan, anatomy=found.anatomy)


def test_each_block_gets_the_size_that_it_was_given(found):
    """The zeroed parent, block by block; and the clone is read again with its uneven blocks."""
    (stack,) = found.anatomy.stacks
    part = stack.blocks[0].attention[0]
    whole, group = part.heads, part.heads // part.kv_heads
    heads = (whole, group, whole - group)
    target = Target(ffn="40,50%,60", heads=",".join(map(str, heads)))
    plan = pipeline.plan(found.anatomy, None, target, importance="uniform", method="none")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    pipeline.verify(found.model, made, plan).raise_if_failed()
    for got, want in zip(outputs(made), outputs(zeroed(found, plan.keep)), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
    (after,) = inspect(made).stacks
    assert [b.feed_forward[0].ffn for b in after.blocks] == [40, stack.blocks[1].feed_forward[0].ffn // 2, 60]
    assert [b.attention[0].heads for b in after.blocks] == list(heads)


def test_blocks_that_are_named_stay_each_at_its_size(found):
    target = Target(keep_blocks="0,2", ffn="0:40,2:50%")
    plan = pipeline.plan(found.anatomy, None, target, importance="first", method="none")
    made = pipeline.clone(found.model, plan, anatomy=found.anatomy)
    pipeline.verify(found.model, made, plan).raise_if_failed()
    assert [b.feed_forward[0].ffn for b in inspect(made).stacks[0].blocks] == [40, 80]
    one_by_one = found.cut({n: k for n, k in plan.keep.items() if n.endswith("ffn")}, drop=[1])
    for got, want in zip(outputs(made), outputs(one_by_one), strict=True):
        for a, b in zip(got, want, strict=True):
            assert np.array_equal(a, b)
