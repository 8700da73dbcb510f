"""A config.json that is not the graph's is found by what Transformers answers with it, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

import graphclone as gc
from graphclone.cli.app import run
from graphclone.errors import VerificationFailed
from graphclone.pytorch.hugging_face import write_hugging_face
from graphclone.requirements import Requirement
from models.export import EXPORT, quiet
from models.recipe import Parent
from models.seeding import randomise
from tests.pytorch.test_hugging_face import GROUPED, example

INPUTS = ("input_ids", "attention_mask")
AXES = {name: {0: "batch", 1: "sequence"} for name in INPUTS}


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistral")
    config = transformers.MistralConfig(**GROUPED, sliding_window=None, use_cache=False)
    module = randomise(transformers.MistralForCausalLM(config), seed=0)
    with quiet():
        module.save_pretrained(folder)
        parent = Parent(module, {name: example(name, 3, 7) for name in INPUTS}, ("logits",), AXES)
        EXPORT["torchscript"](parent, folder / "model.onnx")
    return folder


def like(mistral: Path, folder: Path, **settings: object) -> Path:
    folder.mkdir()
    held = json.loads((mistral / "config.json").read_text())
    held["rope_parameters"] |= settings.pop("rope_parameters", {})  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(held | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rms_norm_eps": 0.5}, "says rms_norm_eps 0.5, the graph's norms add 1e-06"),
        ({"rms_norm_eps": 1e-5}, "says rms_norm_eps 1e-05, the graph's norms add 1e-06"),
        ({"sliding_window": 2}, "largest relative difference"),
        ({"sliding_window": 33}, "largest relative difference"),
        ({"hidden_act": "gelu"}, "largest relative difference"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "largest relative difference"),
    ],
)
def test_another_models_config_is_refused(
    mistral: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    other = like(mistral, tmp_path / "like", **settings)
    with pytest.raises(VerificationFailed, match=message):
        write_hugging_face(gc.load(mistral / "model.onnx"), other, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["like"]


def test_its_own_is_written_and_how_near_the_answers_are_is_said(
    mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["hf", str(mistral / "model.onnx"), "--like", str(mistral), "-o", str(tmp_path / "out")]) == 0
    assert "Transformers answers as ONNX Runtime does: largest relative difference" in capsys.readouterr().out


def test_without_transformers_it_is_said_that_nothing_was_compared(
    mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphclone.pytorch.answers.TRANSFORMERS", Requirement("no-transformers", "5"))
    assert run(["hf", str(mistral / "model.onnx"), "--like", str(mistral), "-o", str(tmp_path / "out")]) == 0
    assert "not compared with what Transformers answers: no-transformers is not installed" in capsys.readouterr().out
