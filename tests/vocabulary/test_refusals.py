"""Which tokens stay, as the commands are asked; what is no list of tokens is refused in a line that says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as kinds

import models
from graphclone.cli.app import run

LLAMA, VIT = (models.cached(name, exporter="torchscript") for name in ("llama", "vit-tiny"))


@pytest.mark.parametrize(
    ("model", "name", "text", "code", "said"),
    [
        (LLAMA, "ids.txt", "3 131", 5, "the token 131, where the graph's embedding has 131 rows"),
        (LLAMA, "ids.txt", "[3,5; 131]\n", 5, "the token 131, where the graph's embedding has 131 rows"),
        (LLAMA, "marked.txt", "\ufeff3 131", 5, "the token 131, where the graph's embedding has 131 rows"),
        (LLAMA, "long.txt", "1" * 5000, 5, "text needs the model's tokenizer.json"),
        (LLAMA, "text.txt", "some words", 5, "text needs the model's tokenizer.json"),
        (LLAMA, "ids.bin", "3 4", 5, "no text to take a vocabulary from: give python-docs"),
        (VIT, "ids.txt", "3 4", 3, "no vocabulary to trim"),
    ],
    ids=["outside", "outside, with commas", "outside, marked", "long", "no tokenizer", "no text", "no tokens"],
)
def test_what_is_no_list_of_tokens(model, name, text, code, said, tmp_path: Path, capsys):
    (tmp_path / name).write_text(text)
    arguments = ["clone", str(model), str(tmp_path / "small.onnx"), "--vocab", str(tmp_path / name)]
    assert run(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("words", "text", "said"), [(131, "", "not one token"), (9, "w3", "another model's?")])
def test_a_tokenizer_and_a_text_that_do_not_fit(words, text, said, tmp_path, capsys):
    vocab = {"<unk>": 0, **{f"w{k}": k for k in range(1, words)}}
    Tokenizer(kinds.WordLevel(vocab, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(text)
    arguments = ["clone", str(LLAMA), str(tmp_path / "small.onnx"), "--vocab", str(tmp_path / "text.txt")]
    assert run([*arguments, "--tokenizer", str(tmp_path / "tokenizer.json")]) == 5
    assert said in capsys.readouterr().err


def test_records_hold_their_text_in_the_column_that_is_named(tmp_path):
    vocab = {"<unk>": 0, **{f"w{k}": k for k in range(1, 131)}}
    made = Tokenizer(kinds.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "v.jsonl").write_text('{"body": "w7 w9", "text": "w11"}\n')
    named = ["--vocab", str(tmp_path / "v.jsonl"), "--tokenizer", str(tmp_path / "tokenizer.json")]
    kept = {}
    for name, more in {"text": [], "body": ["--column", "body"]}.items():
        out = tmp_path / f"{name}.onnx"
        assert run(["clone", str(LLAMA), str(out), *named, *more]) == 0
        kept[name] = set(json.loads(out.with_suffix(".tokenizer.json").read_text())["model"]["vocab"])
        assert run(["plan", str(LLAMA), *named, *more]) == 0
    assert (kept["text"] - kept["body"], kept["body"] - kept["text"]) == ({"w11"}, {"w7", "w9"})
