"""Gradients of a cell in PyTorch, and what a fused file computes in the place of its original."""

from __future__ import annotations

import pytest
import torch

from graphclone import graph
from models import cache_folder
from tools.zoo import build, imported
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS

ROW, COLUMN = "starcoder2", "fused-dynamo"


@pytest.fixture(scope="module")
def fused():
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[ROW], COLUMNS[COLUMN], folder):
        build.build(ROWS[ROW], COLUMNS[COLUMN], folder)
    return graph.load(build.file_of(ROWS[ROW], COLUMNS[COLUMN], folder))


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
