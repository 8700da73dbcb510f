"""ONNX Runtime GenAI: a folder of its builder goes in, a smaller one comes out and generates text."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.counterpart("genai"), pytest.mark.real, pytest.mark.slow]


def test_smollm2_goes_in_and_a_smaller_one_generates_text(workplace):
    workplace.section("ONNX Runtime GenAI")
    parent, small = (workplace.folder / name for name in ("smollm2-genai", "small-genai"))
    before, after = (json.loads((folder / "genai_config.json").read_text()) for folder in (parent, small))
    assert [held["model"]["decoder"].pop("num_hidden_layers") for held in (before, after)] == [30, 24]
    assert before == after  # and nothing else has changed
    held = {f.name: sum(p.stat().st_size for p in f.iterdir()) for f in (parent, small)}
    assert held["small-genai"] < 0.9 * held["smollm2-genai"]
    assert "The capital of France is Paris." in workplace.run(
        'graphclone try small-genai --prompt "The capital of France is"'
    )
    told = json.loads(workplace.run("graphclone try small-genai --tokens 4 --json"))
    assert (told["tool"], told["text"].strip().startswith("Paris")) == ("genai", True)


def test_what_does_not_run_is_one_line_in_the_tools_own_words(workplace):
    folder = workplace.folder / "broken"
    folder.mkdir()
    for file in (workplace.folder / "small-genai").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    held = json.loads((folder / "genai_config.json").read_text())
    held["model"]["decoder"]["inputs"]["input_ids"] = "tokens"  # which the graph does not have
    (folder / "genai_config.json").write_text(json.dumps(held))
    code, said = workplace.refused("graphclone try broken")
    assert code == 4
    (line,) = said.splitlines()
    assert line.startswith("graphclone: broken: genai ")
    assert "does not run it" in line
