"""A model whose weights stay on disk: inspected without reading them, cloned without holding them."""

from __future__ import annotations

import pickle  # noqa: TID251  what is sent to other processes is pickled
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import llama_graph
from graphclone import graph, saving
from graphclone.anatomy import inspect
from graphclone.plan import Plan
from graphclone.surgery.operate import clone
from graphclone.verification import slices
from graphclone.verification.claims import read
from graphclone.verification.report import Verdict

SIZES = llama_graph.Sizes(layers=4, hidden=1024, heads=8, kv_heads=4, ffn=4096, vocabulary=2048)
METHODS = ("none", "paper")


@pytest.fixture(scope="module")
def parent_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "model.onnx"
    llama_graph.write(SIZES, path)
    return path


def resident(file):
    """Bytes of a mapped file that count as this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(file)):
            return next(int(row.split()[1]) for row in lines if row.startswith("Rss:")) << 10
    raise AssertionError(f"{file} is not mapped")


def half(anatomy, method):
    rng = np.random.default_rng(0)
    kinds = ("residual", "ffn", "kv_head")
    groups = [g for g in anatomy.groups.values() if g.kind in kinds and not g.pinned]
    kept = {g.name: tuple(map(int, np.sort(rng.permutation(g.size)[: g.size // 2]))) for g in groups}
    return Plan(anatomy.fingerprint, kept, {}, method)


def test_the_benchmarks_graph_is_what_it_is_called(parent_path):
    onnx.checker.check_model(str(parent_path), full_check=True)
    (stack,) = inspect(graph.load(parent_path)).stacks
    assert (stack.hidden, len(stack.blocks)) == (SIZES.hidden, SIZES.layers)
    (attention,) = stack.blocks[0].attention
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (8, 4, 128)
    assert stack.blocks[1].feed_forward[0].ffn == SIZES.ffn


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")
def test_inspecting_reads_no_weight(parent_path):
    model = graph.load(parent_path)
    anatomy = inspect(model)
    weights = parent_path.with_name("model.onnx.weights")
    assert resident(weights) < weights.stat().st_size / 4  # a page that is looked at brings its neighbours
    assert anatomy.parameters == sum(a.size for a in model.constants().values() if a.dtype == np.float16 and a.size > 1)
    assert anatomy.fingerprint == model.sha256


def test_an_anatomy_is_pickled_without_its_model(parent_path):
    model = graph.load(parent_path)
    anatomy = inspect(model)
    copied = pickle.loads(pickle.dumps(anatomy))
    assert (copied.parent, copied.found) == (model.sha256, None)
    assert copied.stacks == anatomy.stacks
    assert len(pickle.dumps(anatomy)) < 1 << 20


def test_a_trace_is_used_again_for_its_own_model_alone(parent_path):
    model, other = graph.load(parent_path), graph.load(parent_path)
    anatomy = inspect(model)
    plan = half(anatomy, "none")
    ours, theirs = clone(model, anatomy, plan), clone(other, anatomy, plan)
    assert ours.sha256 == theirs.sha256 == clone(model, pickle.loads(pickle.dumps(anatomy)), plan).sha256
    assert ours.sha256 == clone(model, anatomy, plan).sha256


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("above", [0, 1 << 30])
def test_a_clone_is_never_held_in_memory(parent_path, tmp_path, monkeypatch, method, above):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", above)
    monkeypatch.setattr(saving, "WORKERS", 1)  # each holds pieces of its own
    model = graph.load(parent_path)
    anatomy = inspect(model)
    made = clone(model, anatomy, half(anatomy, method))
    tracemalloc.start()
    saving.save(made, tmp_path / "clone.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert written > 32 << 20  # three times what is at work at once, however the threads take turns
    assert peak < written / 2, "the weights were collected before they were written"
    found = graph.load(tmp_path / "clone.onnx")
    checks = slices.examine(model, found, read(found))
    assert [check.verdict for check in checks] == [Verdict.PASSED] * len(checks)
