"""A folder is tried by the tool that it is laid out for, and what goes wrong there is said in the tool's words."""

from __future__ import annotations

import pytest

from graphclone import trying
from graphclone.errors import BadData, InvalidTarget, VerificationFailed
from graphclone.requirements import FEATURES, Feature, Requirement
from graphclone.trying import TOOLS, Asked, Tool, attempt


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that all tools would read; each is there, and says who it is."""
    (tmp_path / "model.onnx").write_bytes(b"x")
    for row in TOOLS.values():
        (tmp_path / row.file).write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    here = Feature("x", "x", (Requirement("numpy", "1"),))
    monkeypatch.setattr(trying, "FEATURES", dict.fromkeys(FEATURES, here))
    said = {name: Tool(row.file, lambda *given, name=name: {"text": name}) for name, row in TOOLS.items()}
    monkeypatch.setattr(trying, "TOOLS", said)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_the_first_tool_whose_file_is_there_reads_the_folder(folder):
    for name, row in TOOLS.items():
        found = attempt(folder)
        assert (found.tool, found.text) == (name, name)
        assert found.version == Requirement("numpy", "1").installed
        (folder / row.file).unlink()
    assert attempt(folder, "optimum").text == "optimum"  # named, whatever is there
    with pytest.raises(InvalidTarget, match="no tool 'other' to try with; there are genai, "):
        attempt(folder, "other")


def test_what_goes_wrong_is_said_in_the_tools_words(folder, monkeypatch):
    def run(*given):
        assert given == (folder, folder / "model.onnx", Asked("hello", 3))
        raise RuntimeError("no such\n  operator")

    monkeypatch.setattr(trying, "TOOLS", {"genai": Tool("genai_config.json", run)})
    with pytest.raises(VerificationFailed, match=r"genai \S+ does not run it: RuntimeError: no such operator$"):
        attempt(folder, asked=Asked("hello", 3))


def test_what_is_no_folder_of_a_tool_is_told_apart(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    said = {"nope": "there is no such folder", "model.onnx": "a file: give the folder", ".": "a folder of no tool"}
    for name, why in said.items():
        with pytest.raises(BadData, match=why):
            attempt(tmp_path / name)
