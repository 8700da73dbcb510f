"""What `plan` predicts is what the clone then is: parameters and bytes to the last one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphclone import feeds, graph, pipeline, saving
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget
from graphclone.planner import Target, plan
from graphclone.sizing import candidates
from graphclone.sizing.census import Census, unties
from graphclone.sizing.clock import Clock, by_blocks
from graphclone.sizing.prediction import predict, size_of
from graphclone.surgery.operate import clone
from graphclone.verification.sessions import latencies
from graphclone.vocabulary import keep
from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import parent
from tests.surgery.test_pca import tied_llama

TARGETS = (
    Target(hidden="50%", ffn=44, layers=2),
    Target(heads="50%", drop_ffn="1"),
    Target(layers=5, drop_attention="0", deeper=True),
)


def saved(model, path, shard_size=None):
    saving.save(model, path, shard_size)
    return graph.load(path)


@pytest.mark.parametrize(("recipe", "exporter"), SEEDED_EXPORTS)
def test_a_clone_has_the_parameters_and_the_bytes_that_were_predicted(recipe, exporter, tmp_path):
    found = parent(recipe, exporter)
    for number, target in enumerate(TARGETS):
        made = plan(found.anatomy, None, target, importance="uniform", method="paper")
        predicted = predict(found.model, found.anatomy, made)
        written = saved(clone(found.model, found.anatomy, made), tmp_path / f"{number}.onnx")
        assert predicted.parameters == inspect(written).parameters
        assert predicted.size == size_of(written) == (tmp_path / f"{number}.onnx").stat().st_size


@pytest.mark.parametrize("method", ["norm-gain", "norm-gain+least-squares"])
def test_so_it_is_where_weights_are_corrected(method, tmp_path):
    found = parent("llama", "dynamo")
    fed = [feeds.tiny_feeds(found.model, 8, 64, seed=k) for k in range(8)]
    statistics = pipeline.measure(found.model, fed, anatomy=found.anatomy, moments=True, threads=1)
    made = plan(found.anatomy, statistics, Target(hidden="50%", ffn=60), method=method)
    predicted = predict(found.model, found.anatomy, made, statistics)
    written = saved(clone(found.model, found.anatomy, made, statistics), tmp_path / "a.onnx")
    assert (predicted.parameters, predicted.size) == (inspect(written).parameters, size_of(written))
    with pytest.raises(InvalidTarget, match="give --stats"):
        predict(found.model, found.anatomy, made)


@pytest.mark.parametrize("method", ["pca", "norm-gain+read-in", "norm-gain+depth-patch"])
def test_so_it_is_after_a_second_pass_and_nearly_without(method, tmp_path):
    """A head tied to the embedding is a weight of its own behind pca: the prediction, and a search, count it."""
    found = tied_llama()
    fed = [feeds.tiny_feeds(found.model, 8, 64, seed=k) for k in range(8)]
    statistics = pipeline.measure(found.model, fed, anatomy=found.anatomy, threads=1)
    made = plan(found.anatomy, statistics, Target(hidden="50%", layers=2), method=method)
    affine = pipeline.measure_kept(found.model, made, fed, anatomy=found.anatomy, threads=1)
    predicted = predict(found.model, found.anatomy, made, statistics, affine=affine)
    written = saved(clone(found.model, found.anatomy, made, statistics, affine), tmp_path / "a.onnx")
    assert (predicted.parameters, predicted.size) == (inspect(written).parameters, size_of(written))
    without = predict(found.model, found.anatomy, made, statistics)
    assert without.parameters == predicted.parameters
    assert 0 <= predicted.size - without.size < 0.05 * predicted.size
    shapes = candidates.enumerate_shapes(found.anatomy)
    census = Census.of(found.model, found.anatomy)
    (index,) = [k for k in range(len(shapes)) if shapes[k] == candidates.Shape(32, 4, 160, 2)]
    counted = candidates.parameters(census, shapes, untied=unties(method))
    assert counted[index] == predicted.parameters
    assert counted.max() == found.anatomy.parameters


@pytest.mark.parametrize("shard_size", [None, 20_000])
def test_so_it_is_with_weights_beside_the_model(shard_size, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", 0)
    found = parent("gpt2", "dynamo")
    made = plan(found.anatomy, None, Target(ffn="50%"), importance="first")
    made = keep(made, found.anatomy, range(0, 131, 3))
    predicted = predict(found.model, found.anatomy, made, name="clone.onnx", shard_size=shard_size)
    written = saved(clone(found.model, found.anatomy, made), tmp_path / "clone.onnx", shard_size)
    assert (len(written.external_files) > 3) == (shard_size is not None)
    assert predicted.size == size_of(written) == sum(file.stat().st_size for file in tmp_path.iterdir())


def by_turns(seconds):
    """A machine that is slow in one of three turns."""
    return lambda plans: np.outer([1, 4, 1], [seconds(one) for one in plans])


def test_blocks_of_every_shape_are_timed_and_counted():
    """With a clock that takes what each part costs, the sum over blocks is exact."""
    found = parent("llama", "torchscript")

    def seconds(asked):
        total = 5.0
        for block in found.anatomy.stacks[0].blocks:
            times = 1 + asked.repeat_blocks.get("blocks", ()).count(block.index)
            if block.index in asked.drop_blocks.get("blocks", ()):
                continue
            attention = 0 if block.index in asked.drop_attention.get("blocks", ()) else 2
            total += times * (attention + len(asked.keep[block.feed_forward[0].group]) / 100)
        return total

    shapes = (Target(ffn=40), Target(ffn="0:40,1-2:20"), Target(ffn=40, layers=1), Target(ffn=40, drop_attention="1"))
    for target in (*shapes, Target(ffn=40, layers=7, deeper=True)):
        made = plan(found.anatomy, None, target, importance="first", method="none")
        for share in (0.0, 0.9):
            timed = by_blocks(by_turns(seconds), found.anatomy, made, share)
            assert timed == pytest.approx(seconds(made))


def test_as_many_blocks_are_timed_as_may_run_at_once():
    found = parent("llama", "torchscript")
    made = plan(found.anatomy, None, Target(layers=7, deeper=True), importance="first", method="none")
    blocks = len(found.anatomy.stacks[0].blocks)
    timed = []

    def seconds(asked):
        timed.append(blocks - len(asked.drop_blocks.get("blocks", ())))
        return 1.0

    for share, most in ((0.0, 4), (0.6, 5), (0.9, min(blocks, 7))):
        timed.clear()
        by_blocks(by_turns(seconds), found.anatomy, made, share)
        assert timed == [1, min(most, blocks)]


def test_models_are_timed_by_turns():
    found = parent("gpt2", "dynamo")
    fed = feeds.tiny_feeds(found.model, 2, 8)
    taken = latencies([(found.model, fed), (found.model, fed)], threads=1, turns=3)
    assert taken.shape == (3, 2)
    assert (taken > 0).all()


def test_a_run_is_timed_as_a_whole_or_by_its_blocks():
    found = parent("gpt2", "dynamo")
    made = plan(found.anatomy, None, Target(ffn="50%", layers=2), importance="first", method="none")
    clock = Clock(2, 8, "cpu", 1)
    for one in (clock, replace(clock, whole=0)):
        assert 0 < predict(found.model, found.anatomy, made, clock=one).latency < 10


@pytest.mark.parametrize("text", ["8", "0x8", "8x", "ax4", ""])
def test_what_is_no_batch_is_refused(text):
    with pytest.raises(InvalidTarget, match="write the batch and its length as 1x128"):
        Clock.of(text)
