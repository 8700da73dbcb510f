"""torch and hf as people type them: what they write, what they say, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphclone as gc
from graphclone.cli.app import run
from tests.pytorch.test_quantised import weight_only
from tests.pytorch.test_weights import F32, made

REFUSED, BAD_FILE = 3, 5


@pytest.fixture(scope="module")
def llama(parent_file):
    return parent_file("llama", exporter="dynamo")


def test_torch_writes_a_folder_and_says_what_is_in_it(llama, tmp_path, capsys):
    assert run(["torch", str(llama), "-o", str(tmp_path / "small"), "--dropout", "0.1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    source = (tmp_path / "small" / "model.py").read_text()
    assert said["lines"] == source.count("\n")
    assert said["parameters"] > 0
    assert "0.1" in source
    assert run(["torch", str(llama), "-o", str(tmp_path / "small")]) == 0  # again, in place of what it wrote
    assert "0.1 if" not in (tmp_path / "small" / "model.py").read_text()


def test_torch_replaces_no_source_that_was_edited(llama, tmp_path, capsys):
    folder = tmp_path / "small"
    assert run(["torch", str(llama), "-o", str(folder)]) == 0
    source = folder / "model.py"
    edited = source.read_text() + "\n# mine\n"
    source.write_text(edited)
    assert run(["torch", str(llama), "-o", str(folder)]) == 2
    assert "may have been edited: write into another folder, or remove it first" in capsys.readouterr().err
    assert source.read_text() == edited
    source.unlink()
    assert run(["torch", str(llama), "-o", str(folder)]) == 0


def test_torch_of_an_operator_without_a_row_says_which_and_how_to_add_one(tmp_path, capsys):
    model = made([("Det", ["x"], ["y"], "the_node", {})], [("x", F32, [2, 2])], {})
    gc.save(model, tmp_path / "det.onnx")
    assert run(["torch", str(tmp_path / "det.onnx"), "-o", str(tmp_path / "det")]) != 0
    said = capsys.readouterr().err
    assert "Det version 11 (node 'the_node', opset 17)" in said
    assert "@row('Det', 11) in graphclone/pytorch/operators" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["det.onnx"]


def test_torch_says_how_many_weights_are_integers(tmp_path, capsys):
    gc.save(weight_only(by_operator=True), tmp_path / "bytes.onnx")
    assert run(["torch", str(tmp_path / "bytes.onnx"), "-o", str(tmp_path / "bytes")]) == 0
    assert (
        "\n128 weights are integers: they stay as they are, and their scales are trained\n" in capsys.readouterr().out
    )


@pytest.mark.parametrize("where", ["missing/out", "file"])
def test_torch_refuses_where_nothing_can_be_written(llama, tmp_path, capsys, where):
    (tmp_path / "file").write_text("")
    assert run(["torch", str(llama), "-o", str(tmp_path / where)]) == BAD_FILE
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_hf_refuses_a_family_without_a_row(llama, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "falcon"}')
    assert run(["hf", str(llama), "--like", str(tmp_path), "-o", str(tmp_path / "out")]) == REFUSED
    said = capsys.readouterr().err
    assert "'falcon'" in said
    assert "llama" in said
    assert not (tmp_path / "out").exists()


def test_hf_says_what_it_wrote(llama, tmp_path, capsys):
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 1})
    )
    (like / "tokenizer.json").write_text("{}")
    assert run(["hf", str(llama), "--like", str(like), "-o", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    written = json.loads(Path(tmp_path / "out" / "config.json").read_text())
    assert (said["family"], said["architecture"]) == ("llama", "LlamaForCausalLM")
    assert said["files"] == []  # a tokenizer of other words than the clone's is left behind
    assert written["num_hidden_layers"] == 3
    assert written["vocab_size"] > 1
