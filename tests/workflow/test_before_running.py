"""What is told of a recipe before it runs, and where it would write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

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


FIRST = "method: {importance: first}"


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        (f"parent: none.onnx\ntarget: {{layers: 1}}\n{FIRST}", 5, "parent: "),
        (f"parent: data.npz\ntarget: {{layers: 1}}\n{FIRST}", 5, "data.npz"),
        ("parent: parent.onnx\ntarget: {hidden: 32}", 2, "clone: importance equal-vote needs statistics"),
        ("parent: parent.onnx\ntarget: {params: 50%}", 2, "clone: importance equal-vote needs statistics"),
        ("parent: parent.onnx\ntarget: {layers: 1}\nmethod: {depth: angular}", 2, "clone: depth angular needs"),
        ("parent: parent.onnx\ntarget: {hidden: 32}\ndata: {source: no.npz}", 5, "no.npz: there is no such file"),
        ("parent: parent.onnx\ntarget: {hidden: 32}\ndata: {source: wiki}", 5, "wiki: there is no such file"),
    ],
)
def test_a_recipe_that_cannot_run_is_no_recipe(
    said: str, code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "r.yaml").write_text(said)
    assert run(["run", str(folder / "r.yaml"), "--dry-run"]) == code
    assert message in capsys.readouterr().err
    assert not (folder / "r").exists()


def test_settings_are_shown_with_their_defaults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "r.yaml"
    recipe.write_text("parent: parent.onnx\ndata: {source: data.npz}\ntarget: {hidden: 32}\n")
    assert run(["run", str(recipe), "--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["target"]["hidden"] == 32
    assert shown["method"]["importance"] == "equal-vote"
    assert run(["run", str(recipe), "--dry-run", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["data"] == {"source": "data.npz"}
    assert held["settings"] == shown
