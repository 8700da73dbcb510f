"""`clone FOLDER NEW-FOLDER`: the model is found, everything that belongs to it comes along, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import graphclone as gc
import models
from graphclone import folders, outputs
from graphclone.cli.app import run
from graphclone.errors import BadData, BadModel, InvalidTarget
from graphclone.report.subject import Subject
from graphclone.side_files import sentence

BERT = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}


def write(path: Path, held: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held))


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A seeded BERT as sentence-transformers lays it out, with weights and a card that are the parent's alone."""
    made = tmp_path / "parent"
    (made / "onnx").mkdir(parents=True)
    shutil.copyfile(models.cached("bert", exporter="torchscript"), made / "onnx" / "model.onnx")
    sizes = gc.inspect(gc.load(made)).stacks[0]
    heads = sizes.blocks[0].attention[0].heads
    said = {"hidden_size": sizes.hidden, "num_hidden_layers": len(sizes.blocks), "num_attention_heads": heads}
    write(made / "config.json", {"model_type": "bert", **said})
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    write(made / "modules.json", [{"path": p, "type": f"x.models.{k}"} for p, k in zip(paths, kinds, strict=True)])
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    write(made / "1_Pooling" / "config.json", {"word_embedding_dimension": sizes.hidden, **modes})
    write(made / "2_Dense" / "config.json", {"in_features": 2 * sizes.hidden, "out_features": 5})
    weight = np.arange(10 * sizes.hidden, dtype=np.float32).reshape(5, -1)
    save_file({"linear.weight": weight}, made / "2_Dense" / "model.safetensors")
    for name in ("README.md", "LICENSE", "model.safetensors", "onnx/model_int8.onnx"):
        (made / name).write_text(name)
    return made


def test_all_of_a_folder_follows_the_clone(parent, tmp_path, capsys):
    out = tmp_path / "small"
    asked = ["--hidden", "50%", "--layers", "2", "--importance", "magnitude", "--method", "none", "--json"]
    assert run(["clone", str(parent), str(out), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    files = sorted(f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file())
    assert files == sorted([*told["beside"], "onnx/model.onnx"])
    assert told["left"] == ["README.md", "model.safetensors", "onnx/model_int8.onnx"]
    assert (out / "LICENSE").read_text() == "LICENSE"
    clone = gc.load(out)
    hidden = gc.inspect(clone).stacks[0].hidden
    assert json.loads((out / "config.json").read_text())["hidden_size"] == hidden
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == hidden
    assert json.loads((out / "2_Dense" / "config.json").read_text())["in_features"] == 2 * hidden
    cut = load_file(out / "2_Dense" / "model.safetensors")["linear.weight"]
    columns = cut[0].astype(int)  # the first row counts the columns
    first, second = columns[:hidden], columns[hidden:]
    assert (second - first == 2 * hidden).all()  # pooled in two ways, one behind the other: the same channels twice
    assert first.tolist() == list(gc.Plan.from_json(clone.metadata["graphclone.plan"]).keep["residual"])


def test_commands_take_a_folder_for_its_model(parent, capsys):
    assert run(["inspect", str(parent), "--json"]) == 0
    by_folder = json.loads(capsys.readouterr().out)
    assert run(["inspect", str(parent / "onnx" / "model.onnx"), "--json"]) == 0
    assert {**json.loads(capsys.readouterr().out), "model": None} == {**by_folder, "model": None}


def test_timing_gates_and_reports_take_folders_too(parent, tmp_path, capsys):
    small, page = str(tmp_path / "small"), tmp_path / "report.html"
    assert run(["clone", str(parent), small, "--layers", "1", "--importance", "first"]) == 0
    capsys.readouterr()
    assert run(["bench", str(parent), small, "--lengths", "8", "--runs", "1", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed["parent"]["bytes"] == (parent / "onnx" / "model.onnx").stat().st_size
    ratio = ["--max-latency-ratio", "1000", "--lengths", "8", "--runs", "1"]
    assert run(["check", small, "--parent", str(parent), *ratio]) == 0
    assert run(["report", str(parent), small, "--runs", "1", "-o", str(page)]) == 0
    opened = Subject.open(parent)
    assert opened.bytes == timed["parent"]["bytes"]


def test_what_lies_there_already_stays(parent, tmp_path, capsys):
    out = tmp_path / "taken"
    write(out / "mine.json", {})
    assert run(["clone", str(parent), str(out), "--layers", "2", "--importance", "first"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds files already: write into a new folder" in line
    assert run(["clone", str(parent), str(tmp_path / "no" / "where"), "--layers", "2", "--importance", "first"]) == 5
    (tmp_path / "empty").mkdir()
    assert run(["clone", str(parent), str(tmp_path / "empty"), "--layers", "2", "--importance", "first"]) == 0


def test_a_failure_leaves_no_folder(parent, tmp_path, capsys):
    write(parent / "1_Pooling" / "config.json", [])
    (parent / "modules.json").write_text('[{"path": "../out", "type": "x.Pooling"}]')
    assert run(["clone", str(parent), str(tmp_path / "small"), "--layers", "2", "--importance", "first"]) == 5
    assert "lies outside the folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_the_model_of_a_folder(tmp_path):
    with pytest.raises(BadModel, match="a folder without an ONNX file"):
        folders.model_in(tmp_path)
    for name in ("encoder_model.onnx", "decoder_model.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadModel, match=r"holds 2 ONNX files \(decoder_model.onnx, encoder_model.onnx\)"):
        folders.model_in(tmp_path)
    write(tmp_path / "genai_config.json", {"model": {"decoder": {"filename": "decoder_model.onnx"}}})
    assert folders.model_in(tmp_path) == tmp_path / "decoder_model.onnx"
    parts = {"decoder": {"filename": "decoder_model.onnx"}, "vision": {"filename": "encoder_model.onnx"}}
    write(tmp_path / "genai_config.json", {"model": parts})
    with pytest.raises(BadModel, match="a model of 2 files"):
        folders.model_in(tmp_path)
    write(tmp_path / "genai_config.json", {"model": {"decoder": {"filename": "../decoder_model.onnx"}}})
    with pytest.raises(BadModel, match="points outside"):
        folders.model_in(tmp_path)
    write(tmp_path / "genai_config.json", {"model": 3})
    with pytest.raises(BadModel, match=r"says no model\.decoder\.filename"):
        folders.model_in(tmp_path)


def module(folder: Path, kind: str, config: dict[str, object]) -> None:
    write(folder / "modules.json", [{"path": "", "type": "Transformer"}, {"path": "1", "type": f"m.{kind}"}])
    write(folder / "1" / "config.json", config)


def test_modules_that_cannot_follow_are_said(tmp_path):
    there, to = tmp_path / "there", tmp_path / "to"
    module(there, "LSTM", {"hidden_dim": 8})
    assert sentence.write(there, to, [0, 2], 4)[1] == ["1: a LSTM, of whose sizes nothing is known: copied as it is"]
    module(there, "Pooling", {"embedding_dimension": 7})
    assert sentence.write(there, to, [0, 2], 4)[1] == ["1: takes 7 features, the parent gives 4: copied as it is"]
    module(there, "Dense", {"in_features": 4})
    (there / "1" / "pytorch_model.bin").write_bytes(b"x")
    ((line,), wrote) = sentence.write(there, to, [0, 2], 4)[1], sorted(p.name for p in (to / "1").iterdir())
    assert "its weights are a pickle" in line
    assert wrote == ["config.json"]
    (there / "modules.json").write_text("{")
    with pytest.raises(BadData, match="list of modules"):
        sentence.write(there, to, None, 4)


def test_several_ways_of_pooling_feed_what_follows(tmp_path):
    there, to = tmp_path / "there", tmp_path / "to"
    kinds = ("Pooling", "LayerNorm")
    write(there / "modules.json", [{"path": k, "type": k} for k in kinds])
    write(there / "Pooling" / "config.json", {"embedding_dimension": 4, "pooling_mode": ["cls", "mean"]})
    write(there / "LayerNorm" / "config.json", {"dimension": 8})
    save_file({"norm.weight": np.arange(8.0, dtype=np.float32)}, there / "LayerNorm" / "model.safetensors")
    assert sentence.write(there, to, [1, 3], 4)[1] == []
    assert load_file(to / "LayerNorm" / "model.safetensors")["norm.weight"].tolist() == [1, 3, 5, 7]
    assert json.loads((to / "LayerNorm" / "config.json").read_text()) == {"dimension": 4}


def test_a_staged_folder_is_whole_or_not_there(tmp_path):
    def write_half() -> None:
        with outputs.staged_folder(tmp_path / "out") as draft:
            (draft / "a").write_text("a")
            raise InvalidTarget("half way")

    with pytest.raises(InvalidTarget, match="half way"):
        write_half()
    assert list(tmp_path.iterdir()) == []
    with outputs.staged_folder(tmp_path / "out") as draft:
        (draft / "in").mkdir()
        (draft / "in" / "b").write_text("b")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "out",
        "out/in",
        "out/in/b",
    ]
    with pytest.raises(InvalidTarget, match="holds files already"), outputs.staged_folder(tmp_path / "out"):
        pass
