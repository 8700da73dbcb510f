"""Sequences longer than a table of positions are told before they run; the default length gives way."""

from __future__ import annotations

import numpy as np
import pytest

import models
from graphclone import graph
from graphclone.cli.app import run
from graphclone.errors import BadData, InvalidTarget
from graphclone.sizing.clock import Clock
from graphclone.statistics import positions
from graphclone.statistics.calibration import open_source
from graphclone.timing.bench import bench

POSITIONS = models.gpt2.POSITIONS


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def learned(request):
    return graph.load(models.cached("gpt2", exporter=request.param))


def test_the_default_length_gives_way_to_fewer_positions_and_another_is_refused(learned):
    source = open_source("random:2", learned, batch_size=1)
    assert [batch["input_ids"].shape for batch in source] == [(1, POSITIONS)] * 2
    assert source.lines()[1] == f"sequences of {POSITIONS} tokens, as the model has no more positions"
    assert open_source("random:1", learned, length=POSITIONS).notes == ()
    with pytest.raises(BadData, match=rf"^length 65: the model has {POSITIONS} positions: --length {POSITIONS} at mo"):
        open_source("random:2", learned, length=POSITIONS + 1)


@pytest.mark.parametrize(("name", "most"), [("llama", None), ("bert", 64), ("vit-tiny", None)])
def test_angles_and_patches_are_no_limit(name, most):
    assert positions.most(graph.load(models.cached(name, exporter="torchscript")), 96) == most


def test_nothing_runs_where_no_table_is_short(learned, monkeypatch):
    monkeypatch.setattr(positions, "_trial", None)
    assert positions.most(learned, POSITIONS - positions.BESIDE) is None


def test_what_is_timed_says_how_many_there_are(learned, tmp_path, capsys):
    file = learned.path
    with pytest.raises(BadData, match=rf"length 999: the model has {POSITIONS} positions: --lengths of {POSITIONS} at"):
        bench(file, file, lengths=[16, 999], runs=1, warmup=0, threads=1)
    with pytest.raises(InvalidTarget, match=f"timed 2x99: the model has {POSITIONS} positions: --timed 2x{POSITIONS}"):
        Clock(2, 99, "cpu").seconds(learned)
    assert run(["plan", str(file), "--layers", "1", "--importance", "first", "--provider", "cpu"]) == 0
    shown = capsys.readouterr()
    assert f"batch 1 x {POSITIONS}" in shown.out
    assert "latency is not predicted" not in shown.err
    np.savez(tmp_path / "a.npz", input_ids=np.zeros((1, 3), np.int64))
    assert open_source(tmp_path / "a.npz", learned).notes == ()
