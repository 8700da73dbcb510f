"""`clone --with-config`: the parent's folder becomes the clone's, and the tools that read such folders run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer

import graphclone as gc
import models
from graphclone.cli.app import run
from graphclone.feeds import tiny_feeds
from tests.surgery.parents import session

WORDS = {"<unk>": 0, "</s>": 1, "<s>": 2, **{f"w{k}": k for k in range(3, 131)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A seeded Llama as it is saved: model, configuration, tokenizer."""
    from tokenizers import AddedToken, pre_tokenizers
    from tokenizers import models as kinds

    made = tmp_path / "parent" / "onnx"
    made.mkdir(parents=True)
    shutil.copyfile(models.cached("llama", exporter="torchscript"), made / "model.onnx")
    models.parent("llama").module.config.save_pretrained(made.parent)
    config = json.loads((made.parent / "config.json").read_text())
    (made.parent / "config.json").write_text(json.dumps({**config, "eos_token_id": 1, "bos_token_id": 2}))
    words = Tokenizer(kinds.WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "</s>", "<s>")])
    words.save(str(made.parent / "tokenizer.json"))
    shutil.copyfile(made.parent / "tokenizer.json", made / "tokenizer.json")
    (made.parent / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"1": {}, "9": {}}}))
    (made.parent / "vocab.json").write_text(json.dumps(WORDS))
    return made


def test_a_folder_with_fewer_tokens(folder, tmp_path, capsys):
    out = tmp_path / "clone"
    out.mkdir()
    (tmp_path / "text.txt").write_text("w9 w40 w41\nw130 w77 odd\n")
    arguments = ["clone", str(folder / "model.onnx"), str(out / "model.onnx"), "--layers", "2", "--ffn", "50%"]
    asked = ["--importance", "first", "--vocab", str(tmp_path / "text.txt"), "--with-config", "--json"]
    assert run([*arguments, *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(p).name for p in told["beside"]} == {p.name for p in out.iterdir()} - {"model.onnx"}
    assert told["not_updated"] == ["vocab.json: not copied: the clone has fewer tokens"]
    config = transformers.AutoConfig.from_pretrained(out)
    made = gc.inspect(gc.load(out / "model.onnx"))
    stack = made.stacks[0]
    assert (config.num_hidden_layers, config.intermediate_size) == (2, stack.blocks[0].feed_forward[0].ffn)
    kept = [0, 1, 2, 9, 40, 41, 77, 130]
    assert json.loads((out / "model.vocab.json").read_text()) == {"format": 1, "ids": kept, "parent": 131}
    assert (config.vocab_size, config.eos_token_id, config.bos_token_id) == (8, 1, 2)
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode("w41 w130 w5").ids == [5, 7, 0]
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"added_tokens_decoder": {"1": {}, "3": {}}}


def test_a_plan_that_was_written_keeps_its_tokens(folder, tmp_path):
    plan, out, again = tmp_path / "plan.json", tmp_path / "clone", tmp_path / "again"
    out.mkdir()
    again.mkdir()
    (tmp_path / "ids.txt").write_text("9 40 77")
    asked = ["--layers", "2", "--importance", "first", "--vocab", str(tmp_path / "ids.txt")]
    assert run(["plan", str(folder / "model.onnx"), *asked, "-o", str(plan)]) == 0
    assert run(["clone", str(folder / "model.onnx"), str(out / "model.onnx"), "--plan", str(plan)]) == 0
    assert run(["clone", str(folder / "model.onnx"), str(again / "model.onnx"), *asked]) == 0
    names = ["model.onnx", "model.tokenizer.json", "model.vocab.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_without_fewer_tokens_the_tokenizer_is_copied(folder, tmp_path, capsys):
    out = tmp_path / "clone"
    out.mkdir()
    arguments = ["clone", str(folder / "model.onnx"), str(out / "model.onnx"), "--layers", "2", "--importance", "first"]
    assert run([*arguments, "--side-files", str(folder.parent)]) == 0
    for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (folder.parent / name).read_bytes()
    assert "beside it:" in capsys.readouterr().out


def test_a_budget_counts_the_tokens_that_stay(folder, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("9 40 77")
    asked = ["--vocab", str(tmp_path / "ids.txt"), "--params", "30%", "--importance", "first", "--json"]
    assert run(["plan", str(folder / "model.onnx"), *asked]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert run(["clone", str(folder / "model.onnx"), str(tmp_path / "small.onnx"), *asked]) == 0
    made = json.loads(capsys.readouterr().out)
    limit = 0.3 * made["parent"]["parameters"]
    chosen = planned["candidates"][0]
    assert 0.8 * limit < chosen["parameters"] == planned["parameters"] == made["clone"]["parameters"] <= limit
    assert planned["target"]["vocab"] < 131


def refused(capsys, *arguments: str | Path) -> str:
    assert run([*map(str, arguments), "--layers", "2", "--importance", "first", "--with-config"]) in (2, 5)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_is_refused_before_anything_is_done(folder, tmp_path, capsys):
    model, above = folder / "model.onnx", folder.parent
    assert "holds the parent's side files" in refused(capsys, "clone", model, above / "small.onnx")
    alone = tmp_path / "alone" / "model.onnx"
    alone.parent.mkdir()
    shutil.copyfile(model, alone)
    assert "no config.json or genai_config.json" in refused(capsys, "clone", alone, tmp_path / "small.onnx")
    (alone.parent / "config.json").write_text("{")
    assert "not a configuration in JSON" in refused(capsys, "clone", alone, tmp_path / "small.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "parent"]


@pytest.mark.slow
def test_onnxruntime_genai_generates_with_the_folder(tmp_path):
    og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install it")
    from tools.zoo.genai import build_folder
    from tools.zoo.rows import ROWS

    parent, out = tmp_path / "parent", tmp_path / "clone"
    out.mkdir()
    build_folder(ROWS["llama"], ROWS["llama"].sizes, parent)
    (tmp_path / "ids.txt").write_text(" ".join(map(str, range(0, 131, 2))))
    target = ["--hidden", "50%", "--heads", "4", "--kv-heads", "2", "--ffn", "50%", "--layers", "2"]
    asked = ["--importance", "first", "--method", "none", "--vocab", str(tmp_path / "ids.txt"), "--with-config"]
    assert run(["clone", str(parent / "model.onnx"), str(out / "small.onnx"), *target, *asked]) == 0
    held = json.loads((out / "genai_config.json").read_text())["model"]
    assert held["vocab_size"] == 67  # those and the end of text, which the configuration names
    assert (held["decoder"]["filename"], held["decoder"]["num_hidden_layers"]) == ("small.onnx", 2)
    model = og.Model(str(out))
    wanted = og.GeneratorParams(model)
    wanted.set_search_options(max_length=8, do_sample=False)
    generator = og.Generator(model, wanted)
    prompt = [5, 11, 23, 42]
    generator.append_tokens(np.array(prompt, np.int32))
    generator.generate_next_token()
    clone = gc.load(out / "small.onnx")
    fed = tiny_feeds(clone, batch=1, length=len(prompt))
    fed["input_ids"] = np.array([prompt], fed["input_ids"].dtype)
    logits = session(clone).run(["logits"], fed)[0]
    assert generator.get_sequence(0).tolist() == [*prompt, int(logits[0, -1].argmax())]
