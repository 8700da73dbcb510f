"""Trained parents, each in the format it comes in: what is found, a clone of another shape, all neurons in another
order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import models
from graphclone import graph, pipeline
from graphclone.feeds import tiny_feeds
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.verification.sessions import open_session
from models.packages import MissingPackage
from tests.tolerances import assert_close

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class File:
    """What is known of a parent from its authors, and what it is cut to."""

    layers: tuple[int, ...]  # of each stack
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    parameters: int
    target: Target
    gated: bool = False

    @property
    def head_dim(self):
        return self.hidden // self.heads


BERT = {"hidden": 384, "heads": 12, "kv_heads": 12, "ffn": 1536}
WIDE = {"hidden": 384, "heads": 6, "kv_heads": 6, "ffn": 1536}
SMOL = {"hidden": 576, "heads": 9, "kv_heads": 3, "ffn": 1536}
HALF = Target(hidden=192, heads=6, ffn=512, layers=2)
THIRD = Target(hidden=128, heads=2, ffn=512, layers=5)
SPEECH = Target(hidden=200, heads=4, ffn=600, layers=3)
TENTH = Target(hidden=192, heads=3, kv_heads=1, ffn=512, layers=10)
FILES = {
    ("paraphrase", "asis"): File((3,), **BERT, parameters=17_241_984, target=HALF),
    ("minilm-int8", "asis"): File((6,), **BERT, parameters=22_565_376, target=HALF),
    ("minilm", "dynamo"): File((6,), **BERT, parameters=22_565_376, target=HALF),
    ("minilm", "torchscript"): File((6,), **BERT, parameters=22_565_376, target=HALF),
    ("vit-focus", "asis"): File((12,), **WIDE, parameters=24_286_720, target=THIRD),
    ("whisper", "dynamo"): File((4, 4), **WIDE, parameters=37_280_256, target=SPEECH),
    ("whisper", "torchscript"): File((4, 4), **WIDE, parameters=37_280_256, target=SPEECH),
    ("smollm2", "dynamo"): File((30,), **SMOL, parameters=134_515_008, target=TENTH, gated=True),
    ("smollm2", "torchscript"): File((30,), **SMOL, parameters=134_515_008, target=TENTH, gated=True),
}
SLOW = ("smollm2",)
CASES = [pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] if cell[0] in SLOW else []) for cell in FILES]


@pytest.fixture(scope="module", params=[c.values for c in CASES], ids=[c.id for c in CASES])
def found(request):
    """(file, model, anatomy), one parent in memory at a time."""
    name, exporter = request.param
    try:
        model = graph.load(models.cached(name, exporter=exporter))
    except MissingPackage as missing:
        pytest.skip(f"NOT TESTED on {name}: {missing}")
    return FILES[name, exporter], model, pipeline.inspect(model)


def shown(stack):
    attention = {(a.heads, a.kv_heads, a.head_dim, a.v_dim) for b in stack.blocks for a in b.attention}
    forward = {(f.ffn, f.gated) for b in stack.blocks for f in b.feed_forward}
    return stack.hidden, len(stack.blocks), attention, forward


def test_the_file_is_what_its_authors_say(found):
    file, _, anatomy = found
    head = (file.heads, file.kv_heads, file.head_dim, file.head_dim)
    assert [shown(s) for s in anatomy.stacks] == [
        (file.hidden, layers, {head}, {(file.ffn, file.gated)}) for layers in file.layers
    ]
    assert anatomy.parameters == file.parameters


def test_a_clone_of_another_shape_is_verified_and_has_it(found):
    file, model, anatomy = found
    target = file.target
    plan = pipeline.plan(anatomy, None, target, importance="uniform", method="paper")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    kv_heads = target.kv_heads or target.heads
    wanted = (target.hidden, target.layers, {(target.heads, kv_heads, file.head_dim, file.head_dim)})
    after = pipeline.inspect(made)
    assert [shown(s) for s in after.stacks] == [(*wanted, {(target.ffn, file.gated)})] * len(file.layers)
    assert after.parameters < anatomy.parameters / 2


def test_all_neurons_in_another_order_answer_the_same(found):
    _, model, anatomy = found
    rng = np.random.default_rng(0)
    keep = {g.name: tuple(map(int, rng.permutation(g.size))) for g in anatomy.groups.values() if not g.pinned}
    moved = pipeline.clone(model, Plan(anatomy.fingerprint, keep, method="none"), anatomy=anatomy)
    before, after = open_session(model, threads=1), open_session(moved, threads=1)
    stream = {s.hidden: keep[s.residual] for s in anatomy.stacks}
    fed = tiny_feeds(model, 2, 5)
    answers = after.run(fed)
    for name, wanted in before.run(fed).items():
        follows = stream.get(wanted.shape[-1]) if wanted.dtype.kind == "f" else None
        assert_close(answers[name], wanted if follows is None else np.take(wanted, follows, axis=-1), "float32")


def test_eight_bits_stay_eight_bits():
    """Cut as the integers they are, with the scale of each channel that stays: the format of the file is kept."""
    try:
        model = graph.load(models.cached("minilm-int8"))
    except MissingPackage as missing:
        pytest.skip(f"NOT TESTED on minilm-int8: {missing}")
    anatomy = pipeline.inspect(model)
    assert set(anatomy.stored) == {"int8", "float32"}
    assert anatomy.stored["int8"] > 0.99 * anatomy.parameters
    plan = pipeline.plan(anatomy, None, HALF, importance="uniform", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)

    def bytes_by_type(held):
        sizes = {}
        for array in held.constants().values():
            sizes[array.dtype.name] = sizes.get(array.dtype.name, 0) + array.nbytes
        return sizes

    before, after = bytes_by_type(model), bytes_by_type(made)
    assert before.keys() == after.keys()
    assert after["int8"] < before["int8"] / 1.9
    assert after["float32"] < before["float32"]
