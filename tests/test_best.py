"""What the defaults come to: by what was measured, and by the norms that the narrower stream has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models
from graphclone import feeds, graph
from graphclone.anatomy import inspect
from graphclone.best import takes_moments
from graphclone.olive import making
from graphclone.olive.options import OPTIONS
from graphclone.planner import Target, plan
from graphclone.statistics import run


def test_the_best_method_is_what_the_statistics_allow() -> None:
    model = graph.load(models.cached("llama"))
    anatomy = inspect(model)
    data = [feeds.tiny_feeds(model, 2, 9)]
    target = Target(hidden=32, ffn=80)
    plain, full = (run.measure(model, anatomy, data, moments=moments) for moments in (False, True))
    assert plan(anatomy, plain, target).method == "norm-gain"
    assert plan(anatomy, full, target).method == "norm-gain+least-squares"
    assert plan(anatomy, None, target, importance="first").method == "paper"
    assert plan(anatomy, full, target, method="none").method == "none"


@pytest.mark.parametrize(("parent", "scaled"), [("gpt2", True), ("vit-tiny", True), ("bert", False), ("llama", False)])
def test_a_narrower_stream_under_pre_norm_layer_norms_is_scaled_as_by_the_paper(parent: str, scaled: bool) -> None:
    model = graph.load(models.cached(parent))
    anatomy = inspect(model)
    held = run.measure(model, anatomy, [feeds.tiny_feeds(model, 2, 9)], moments=True)
    (stack,) = anatomy.stacks
    corrected = "norm-gain+least-squares"
    narrow = plan(anatomy, held, Target(hidden="50%", ffn="50%", layers=1))
    assert narrow.method == ("paper" if scaled else corrected)
    blocks = plan(anatomy, held, Target(hidden="50%", layers=1), depth="block-influence").drop_blocks
    assert narrow.drop_blocks == blocks, "the blocks of least influence go all the same"
    assert plan(anatomy, held, Target(hidden=stack.hidden, ffn="50%")).method == corrected
    assert plan(anatomy, held, Target(ffn="50%")).method == corrected
    assert plan(anatomy, held, Target(hidden="100%", ffn="50%")).method == corrected
    assert plan(anatomy, held, Target(hidden="50%"), method=corrected).method == corrected


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("best", True),
        ("best+read-in", True),
        ("pca+best", True),
        ("norm-gain+least-squares", True),
        ("norm-gain", False),
        ("paper", False),
    ],
)
def test_second_moments_are_measured_where_least_squares_may_take_them(method: str, wanted: bool) -> None:
    assert takes_moments(method, Target(ffn="50%")) == wanted
    assert takes_moments(method, Target(), budget=True) == wanted
    assert not takes_moments(method, Target(hidden="50%", layers=1)), "nothing inside a block is cut"


def test_the_pass_for_olive_measures_them_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input_ids=np.random.default_rng(0).integers(0, 97, (2, 12)))
    given = {"ffn": "50%", "method": "best+read-in", "data": str(tmp_path / "data.npz")}
    options = {name: option.default for name, option in OPTIONS.items()} | given
    asked = making.Asked(options, None, "cpu", lambda line: None)
    made = making.make(models.cached("llama"), tmp_path / "clone.onnx", asked)
    assert made.plan.method == "norm-gain+least-squares+read-in"
