"""Commands on models whose weights lie beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import graphclone as gc
from benchmarks import llama_graph
from graphclone.cli import options
from graphclone.cli.app import run

HALF = ("--hidden", "50%", "--ffn", "50%", "--importance", "random", "--method", "paper")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "parent.onnx"
    llama_graph.write(llama_graph.SIZES["tiny"], path)
    return path


def test_a_clone_in_shards(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "clones" / "clone.onnx"
    out.parent.mkdir()
    assert run(["clone", str(parent), str(out), *HALF, "--shard-size", "40KB"]) == 0
    model = gc.load(out)
    assert sorted(out.parent.iterdir()) == sorted([out, *model.external_files])
    assert len(model.external_files) > 3
    assert all(file.stat().st_size <= 40_000 for file in model.external_files)
    assert run(["verify", str(parent), str(out)]) == 0
    whole = tmp_path / "whole.onnx"
    assert run(["clone", str(parent), str(whole), *HALF]) == 0
    ours, theirs = gc.load(out).constants(), gc.load(whole).constants()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_fingerprint_that_inspect_prints_is_the_parent_of_a_clone(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(parent), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["parent"]
    assert printed == gc.load(parent).sha256
    out = tmp_path / "clone.onnx"
    assert run(["clone", str(parent), str(out), *HALF]) == 0
    assert gc.load(out).metadata["graphclone.parent_sha256"] == printed


def test_a_clone_never_takes_the_place_of_its_parents_weights(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = parent.with_name("parent.onnx.weights")
    before = weights.read_bytes()
    for taken in (weights, parent):
        assert run(["clone", str(parent), str(taken), *HALF]) == 2
        assert "is also an input; write to another path" in capsys.readouterr().err
    assert weights.read_bytes() == before


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("500", 500), ("1KB", 1000)])
def test_sizes(text: str, size: int) -> None:
    assert options.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "2TB", "1e9", "nan"])
def test_what_is_no_size(parent: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clone", str(parent), "out.onnx", *HALF, f"--shard-size={text}"]) == 2
    assert "no size such as 2GB or 500MB" in capsys.readouterr().err
