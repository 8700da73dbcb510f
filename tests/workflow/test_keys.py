"""What a step is made of: every file and setting that it reads is in its key, and reaches the work."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphclone as gc
from graphclone import pipeline, vocabulary
from graphclone.cli.app import run
from graphclone.errors import InvalidTarget
from graphclone.workflow import reading, training
from graphclone.workflow.contents import Contents
from graphclone.workflow.job import Job, Opened
from graphclone.workflow.steps import STEPS

RECIPE = "parent: parent.onnx\ndata: {source: data.npz}\ntarget: {layers: 1}\n"
FOLDER = "outputs: {side_files: true}\n"
EXTRA = ("counted_mask", "counted_mask_out")
LOSS = "import torch\n\n\ndef loss(outputs, batch):\n    return outputs['logits'].mean()\n"


def job(folder: Path, text: str) -> Job:
    """Of the one target of a recipe; the parent is not read."""
    (folder / "r.yaml").write_text(text)
    recipe = reading.read(folder / "r.yaml")
    (target,) = recipe.held.family.values()
    opened = Opened(folder / "parent.onnx")
    return Job(recipe, "clone", target, folder, {}, opened, Contents({}), print, lambda what: contextlib.nullcontext())


def options(folder: Path, step: str, text: str) -> dict[str, Any]:
    (found,) = (row for row in STEPS if row.name == step)
    return dict(found.options(job(folder, text)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "data.npz", input_ids=np.zeros((2, 4), np.int64))
    for name in ("config.json", "genai_config.json", "other/generation_config.json", "other/tokenizer.json"):
        write(tmp_path / name, "{}")
    write(tmp_path / "modules.json", '[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]')
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


VOCAB = "parent: parent.onnx\ndata: {source: data.npz, tokenizer: other/tokenizer.json}\ntarget: {vocab: words.txt}\n"


@pytest.mark.parametrize(
    ("step", "more", "file"),
    [
        ("train", RECIPE + "training: {steps: 1, task: own_loss.py:loss}\n", "own_loss.py"),
        ("train", RECIPE + "training: {steps: 1, task: own_loss_module:loss}\n", "own_loss_module.py"),
        ("side_files", RECIPE + FOLDER, "config.json"),
        ("side_files", RECIPE + FOLDER, "generation_config.json"),
        ("side_files", RECIPE + FOLDER, "genai_config.json"),
        ("side_files", RECIPE + FOLDER, "tokenizer_config.json"),
        ("side_files", RECIPE + FOLDER, "chat_template.jinja"),
        ("side_files", RECIPE + FOLDER, "1_Pooling/config.json"),
        ("side_files", RECIPE + "outputs: {side_files: other}\n", "other/generation_config.json"),
        ("plan", VOCAB, "generation_config.json"),
        ("plan", VOCAB, "other/tokenizer.json"),
        ("plan", VOCAB + "outputs: {side_files: other}\n", "other/generation_config.json"),
        ("measure", RECIPE.replace("data.npz", "datasets:texts"), "texts/data.arrow"),
        ("measure", RECIPE.replace("data.npz", "datasets:texts:train:text"), "texts/data.arrow"),
    ],
)
def test_another_content_of_a_file_that_is_read_is_another_step(folder: Path, step: str, more: str, file: str) -> None:
    write(folder / file, LOSS)
    write(folder / "words.txt", "1 2 3")
    before = options(folder, step, more)
    assert before == options(folder, step, more)
    write(folder / file, LOSS + "# another\n")
    assert before != options(folder, step, more)


def test_a_vocabulary_is_read_from_the_column_of_the_recipes_data(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = VOCAB.replace("words.txt", "words.jsonl")
    write(bert / "words.jsonl", '{"body": "a"}\n')
    with_column = text.replace("tokenizer:", "column: body, tokenizer:")
    assert options(bert, "plan", text) != options(bert, "plan", with_column)
    asked = []

    def choose_tokens(*given: Any, column: str | None, **more: Any) -> None:
        asked.append(column)
        raise InvalidTarget("enough")

    monkeypatch.setattr(vocabulary, "choose_tokens", choose_tokens)
    (bert / "r.yaml").write_text(with_column)
    assert run(["run", "r.yaml", "-o", "out", "--quiet"]) == 2
    assert asked == ["body"]


LATENCY = RECIPE.replace("layers: 1", "latency: 50%")


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("train", "training: {steps: 1, teacher: parent}\n", "training: {steps: 1, teacher: parent, cache: true}\n"),
        ("train", "training: {steps: 1}\n", "training: {steps: 1}\nseed: 3\n"),
        ("plan", "threads: 1\n", "threads: 2\n"),
    ],
)
def test_another_setting_that_is_used_is_another_step(folder: Path, step: str, before: str, after: str) -> None:
    assert options(folder, step, LATENCY + before) != options(folder, step, LATENCY + after)


@pytest.mark.parametrize(("asked", "seed"), [("", 7), (", seed: 3", 3), (", seed: 0", 0)])
def test_training_is_drawn_by_its_own_seed_or_the_recipes(folder: Path, asked: str, seed: int) -> None:
    text = f"{RECIPE}seed: 7\ntraining: {{steps: 1{asked}}}\n"
    assert training._updates(job(folder, text)).seed == seed
    assert options(folder, "train", text)["seed"] == seed


@pytest.mark.parametrize("line", ["seed: -1\n", "training: {steps: 1, seed: -1}\n"])
def test_a_negative_seed_is_refused_with_its_line(folder: Path, line: str) -> None:
    with pytest.raises(reading.BadRecipe, match=r"line 4: (training.)?seed: should be greater than or equal to 0"):
        job(folder, RECIPE + line)


@pytest.fixture
def bert(parent_file: Callable[..., Path], folder: Path) -> Path:
    shutil.copy(parent_file("bert", exporter="torchscript"), folder / "parent.onnx")
    return folder


def test_a_latency_budget_is_timed_where_the_recipe_says(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def search(*given: Any, clock: Any, **more: Any) -> None:
        asked.append((clock.provider, clock.threads))
        raise InvalidTarget("enough")

    monkeypatch.setattr(pipeline, "search", search)
    how = "provider: cpu\nthreads: 1\nmethod: {importance: first, correction: none, depth: paper}\n"
    (bert / "r.yaml").write_text("parent: parent.onnx\ntarget: {latency: 90%}\n" + how)
    assert run(["run", "r.yaml", "-o", "out", "--quiet"]) == 2
    assert asked == [("cpu", 1)]


def test_both_passes_over_the_data_count_the_same_positions(bert: Path) -> None:
    proto = onnx.load("parent.onnx")
    described = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, ["batch", "sequence"]) for n in EXTRA)
    for side, tensor in zip((proto.graph.input, proto.graph.output), described, strict=True):
        side.append(tensor)
    proto.graph.node.append(onnx.helper.make_node("Identity", EXTRA[:1], EXTRA[1:]))
    onnx.save(proto, "parent.onnx")
    ids = np.random.default_rng(0).integers(5, 60, (8, 16))
    ids[:, 8:], counted = 7, np.zeros_like(ids)
    counted[:, :8] = 1
    ones, types = np.ones_like(ids), np.zeros_like(ids)
    np.savez("data.npz", input_ids=ids, attention_mask=ones, token_type_ids=types, **{EXTRA[0]: counted})
    data = f"data: {{source: data.npz, mask: {EXTRA[0]}}}\n"
    method = "method: {correction: norm-gain}\n"
    (bert / "r.yaml").write_text(f"parent: parent.onnx\n{data}target: {{hidden: 50%}}\n{method}")
    assert run(["run", "r.yaml", "-o", "out", "--quiet"]) == 0
    parent, chosen = gc.load("parent.onnx"), pipeline.read_plan(Path("out/clone/plan.json"))
    first, batches = pipeline.read_statistics(Path("out/statistics.safetensors")), gc.open_source("data.npz", parent)
    got = gc.load("out/clone/clone.onnx").constants()
    for mask, same in ((EXTRA[0], True), (None, False)):
        second = pipeline.measure_kept(parent, chosen, batches, mask=mask)
        expected = pipeline.clone(parent, chosen, first, affine=second).constants()
        assert all(np.array_equal(got[name], array) for name, array in expected.items()) == same
