"""What is told of a recipe before it runs, and where it would write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphclone.cli.app import run


@pytest.fixture
def folder(parent_file: Callable[..., Path], tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(parent_file("llama", exporter="torchscript"), inside / "parent.onnx")
    np.savez(inside / "data.npz", input_ids=np.random.default_rng(0).integers(0, 97, (2, 12)))
    return inside


def test_a_run_lies_beside_its_recipe_wherever_it_is_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "r.yaml").write_text("parent: parent.onnx\ntarget: {layers: 1}\nmethod: {importance: first}\n")
    monkeypatch.chdir(tmp_path)
    assert run(["run", "inside/r.yaml"]) == 0
    assert (folder / "r" / "run.json").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["inside"]
