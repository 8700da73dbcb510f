"""Gradients of a cell in PyTorch, and what a fused file computes in the place of its original."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphclone import graph
from graphclone.feeds import tiny_feeds
from graphclone.pytorch.module import to_torch
from graphclone.verification.sessions import open_session
from models import cache_folder
from tools.zoo import build, imported
from tools.zoo.columns import COLUMNS
from tools.zoo.oracles import difference
from tools.zoo.rows import ROWS

ROW, COLUMN = "starcoder2", "fused-dynamo"


def cell(row, column):
    """The export of a cell, made where it is missing."""
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[row], COLUMNS[column], folder):
        build.build(ROWS[row], COLUMNS[column], folder)
    return graph.load(build.file_of(ROWS[row], COLUMNS[column], folder))


@pytest.fixture(scope="module")
def fused():
    return cell(ROW, COLUMN)


@pytest.mark.slow
def test_gradients_are_those_of_the_gelu_that_the_file_computes(fused, monkeypatch):
    """onnxruntime.transformers made GELU by erf of GELU by tanh: its gradients are not the original's any more."""
    assert {n.op for n in fused.graph.nodes} >= {"BiasGelu"}
    assert imported.gradients(fused, ROWS[ROW], COLUMN).endswith(" trained")
    monkeypatch.setattr(imported, "as_fused", lambda original, model: original)
    with pytest.raises(AssertionError, match=r"of the original's .* gradients are found"):
        imported.gradients(fused, ROWS[ROW], COLUMN)


def test_only_a_fused_file_changes_the_original(fused):
    plain = graph.load(build.file_of(ROWS[ROW], COLUMNS["dynamo"], cache_folder().parent / "zoo"))
    for model, kept in ((plain, True), (fused, False)):
        original = ROWS[ROW].load(ROWS[ROW].sizes).module
        kinds = {type(m).__name__ for m in imported.as_fused(original, model).modules()}
        assert ("GELUTanh" in kinds) is kept
        assert any(isinstance(m, torch.nn.GELU) for m in original.modules()) is not kept


@pytest.mark.slow
def test_a_cache_of_the_windows_size_is_stepped_as_onnx_runtime_steps_it():
    """onnxruntime-genai's Gemma 2: in two of three blocks the cache holds the window alone, in one it grows."""
    model = cell("gemma2", "genai")
    assert [n.attrs.get("sliding_window_cache", 0) for n in model.graph.nodes if n.op.startswith("Group")] == [1, 0, 1]
    assert float(imported.imported(model)) <= imported.RELATIVE
    session, module = open_session(model), to_torch(model).eval()
    arguments = module.meta["graphclone.inputs"]
    given = tiny_feeds(model, 1, 9)
    for _ in range(4):
        wanted = session.run(given)
        with torch.no_grad():
            found = module(**{arguments[n]: torch.from_numpy(a) for n, a in given.items()})
        assert difference(wanted, {n: t.numpy() for n, t in found.items()}) <= imported.RELATIVE
        past = {n: wanted[n.replace("past_key_values", "present")] for n in given if n.startswith("past")}
        ids, mask = wanted["logits"][:, -1:].argmax(-1), np.pad(given["attention_mask"], ((0, 0), (0, 1)), mode="edge")
        given = {"input_ids": ids, "attention_mask": mask, **past}
