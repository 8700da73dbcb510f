"""try and olive-config where the tool is missing, too old, or the folder is no tool's: one line, with the fix."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from graphclone.cli.app import run
from graphclone.requirements import FEATURES


def said(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def installed(folder: Path, name: str, version: str) -> None:
    """A distribution as pip leaves it behind: its metadata."""
    made = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def genai(folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(b"x")
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": "model.onnx"}}}))
    return folder


@pytest.mark.parametrize(
    ("extra", "name", "command"),
    [
        ("olive", "olive-ai", ["olive-config"]),
        ("optimum", "optimum-onnx", ["try", "FOLDER", "--with", "optimum"]),
        ("sentence-transformers", "sentence-transformers", ["try", "FOLDER", "--with", "sentence-transformers"]),
        ("genai", "onnxruntime-genai", ["try", "FOLDER"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tool_that_is_too_old_or_missing(extra, name, command, tmp_path, monkeypatch, capsys):
    folder = genai(tmp_path)
    words = [str(folder) if word == "FOLDER" else word for word in command]
    installed(tmp_path / "site", name, "0.0.3")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert run(words) == 1
    line = said(capsys)
    assert f"{name} 0.0.3 is older than" in line
    assert line.endswith(f"pip install 'graphclone[{extra}]'")
    monkeypatch.undo()
    if any(f"{name} is not installed" in fault for fault in FEATURES[extra].faults):
        assert run(words) == 1
        assert f"{name} is not installed" in said(capsys)


def test_a_folder_of_no_tool_and_a_tool_of_no_name(tmp_path, capsys):
    assert run(["try", str(tmp_path)]) == 5
    assert "none of genai_config.json, modules.json, config.json in it" in said(capsys)
    assert run(["try", str(genai(tmp_path)), "--with", "ollama"]) == 2
    assert said(capsys).endswith("there are genai, sentence-transformers, optimum")
