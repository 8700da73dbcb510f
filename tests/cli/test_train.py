"""`graphclone train` as people type it: tables, curves, logs, teachers, and a name only for what holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import graphclone as gc
from graphclone.cli.app import run
from graphclone.cli.curve import HEIGHT, WIDTH, curve
from tests.pytorch.training.conftest import counting

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="dynamo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(file, **{n: np.concatenate([b[n] for b in counting(6)]) for n in ("input_ids", "attention_mask")})
    return file


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters are words."""
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.add_special_tokens(WORDS[:5])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return file


SHORT = ("--batch-size", "4", "--steps", "8", "--held-out", "1", "--learning-rate", "3e-3")


def test_a_table_a_curve_and_a_line_at_the_end(
    llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained.onnx"
    assert run(["train", str(llama), "--data", str(data), "-o", str(out), *SHORT]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("step  held-out loss\n   0")
    assert "loss of each step" in shown.out
    assert "█" in shown.out
    last = shown.out.splitlines()[-1]
    assert f"{out}: 8 steps, 480 targets, weights of step 8" in last
    assert "checks passed" in last
    assert "training: 8 of 8" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_json_logs_and_a_teacher(llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone, out, logs = tmp_path / "clone.onnx", tmp_path / "trained.onnx", tmp_path / "logs"
    assert run(["clone", str(llama), str(clone), "--layers", "2", "--ffn", "50%", "--importance", "first"]) == 0
    capsys.readouterr()
    beside = ["--teacher", str(llama), "--logs", str(logs), "--schedule", "wsd", "--precision", "bf16"]
    assert run(["train", str(clone), "--data", str(data), "-o", str(out), *SHORT, *beside, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    held = json.loads(line)
    assert len(held["losses"]) == 8
    assert held["teacher_batches"] == 8
    assert held["verification"]["passed"] is True
    names = {check["name"]: check for check in held["verification"]["checks"]}
    assert names["held-out loss in ONNX Runtime"]["verdict"] == "passed"
    assert names["only weights changed"]["verdict"] == "passed"
    assert gc.load(out).metadata["graphclone.trained"] == "true"
    events = EventAccumulator(str(logs)).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(held["losses"], rel=1e-6)
    found = [(event.step, event.value) for event in events.Scalars("heldout/loss")]
    assert [step for step, _ in found] == [step for step, _ in held["held_out"]]


def test_words_are_masked_by_the_tokenizers_own_mask(
    llama: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "trained.onnx"
    text.write_text("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 40)
    arguments = ["--data", str(text), "--length", "16", "-o", str(out), "--task", "masked-lm", *SHORT]
    assert run(["train", str(llama), *arguments, "--tokenizer", str(tokenizer), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["best"][1] < held["held_out"][0][1]
    assert held["tokens"] < 8 * 4 * 14 / 2
    plain = tmp_path / "plain.json"
    plain.write_text(tokenizer.read_text().replace("[MASK]", "[OTHER]"))
    arguments[5] = str(tmp_path / "other.onnx")
    assert run(["train", str(llama), *arguments, "--tokenizer", str(plain)]) == 5
    assert "no mask token among [PAD]" in capsys.readouterr().err


def test_text_is_read_by_the_teachers_tokenizer_where_the_clone_has_none(
    llama: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, clone, text = tmp_path / "parent.onnx", tmp_path / "apart" / "clone.onnx", tmp_path / "text.txt"
    parent.write_bytes(llama.read_bytes())
    (tmp_path / "parent.tokenizer.json").write_bytes(tokenizer.read_bytes())
    text.write_text("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 40)
    clone.parent.mkdir()
    assert run(["clone", str(parent), str(clone), "--layers", "2", "--importance", "first"]) == 0
    arguments = ["--data", str(text), "--length", "16", "-o", str(tmp_path / "trained.onnx"), *SHORT]
    assert run(["train", str(clone), *arguments]) == 5
    assert "looked for clone.tokenizer.json and tokenizer.json" in capsys.readouterr().err
    assert run(["train", str(clone), *arguments, "--teacher", str(parent)]) == 0
    model = gc.load(parent)
    fewer = gc.clone(model, gc.plan(gc.inspect(model), None, gc.Target(), tokens=tuple(range(40))))
    gc.save(fewer, clone.parent / "fewer.onnx")  # its tokens may have other numbers than its teacher's
    assert run(["train", str(clone.parent / "fewer.onnx"), *arguments, "--teacher", str(parent)]) == 5


def test_a_function_of_ones_own(
    llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of_mine.py").write_text("def loss(outputs, batch):\n    return outputs['logits'].pow(2).mean()\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(data), "-o", "out.onnx", *SHORT, "--task", "of_mine:loss", "--json"]
    assert run(["train", str(llama), *arguments]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["best"][1] < held["held_out"][0][1]
    assert {c["name"]: c["verdict"] for c in held["verification"]["checks"]}[
        "held-out loss in ONNX Runtime"
    ] == "passed"


def test_a_run_that_diverges_says_the_step_and_leaves_its_best_weights(
    llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of the best evaluation and of the last whole state are for `pack`, and the output is not written."""
    out = tmp_path / "trained.onnx"
    wild = ["--learning-rate", "1e18", "--clip", "1e18", "--warmup", "0", "--checkpoint-every", "1"]
    assert run(["train", str(llama), "--data", str(data), "-o", str(out), *SHORT, *wild]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"at step \d+: .*the last state written is .*state-0000", last)
    assert not out.exists()
    partial = tmp_path / "trained.onnx.partial"
    for number, held in enumerate((partial / "best.safetensors", *partial.glob("state-*/weights.safetensors"))):
        assert run(["pack", str(llama), str(held), "-o", str(tmp_path / f"{number}.onnx")]) == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--task", "embedding"), 2, "learns from a teacher"),
        (("--task", "sorting"), 2, "not one of causal-lm"),
        (("--schedule", "linear"), 2, "schedule 'linear'"),
        (("--learning-rate", "1e30", "--clip", "1e30", "--warmup", "0"), 1, "at step"),
        (("--held-out", "9"), 5, "fewer than the 9"),
        (("--read", "nothing"), 5, "no output is called nothing"),
        (("--teacher", "none.onnx"), 5, "no such file"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    llama: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "trained.onnx"
    assert run(["train", str(llama), "--data", str(data), "-o", str(out), *SHORT, *options]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert last.startswith("graphclone: ")
    assert not out.exists()


def test_a_folder_that_is_not_there_is_said_before_anything_is_trained(
    llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(llama), "--data", str(data), "-o", str(tmp_path / "no" / "out.onnx"), *SHORT]) == 5
    assert "no such folder" in capsys.readouterr().err


def test_a_curve_falls_from_left_to_right() -> None:
    lines = list(curve([(step, 2.0 - step / 100) for step in range(200)], "loss"))
    assert lines[0] == "loss"
    bars = [line.partition("┤")[2].ljust(WIDTH) for line in lines[1:-1]]
    assert len(bars) == HEIGHT
    heights = [sum(bar[k] == "█" for bar in bars) for k in range(WIDTH)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == HEIGHT > heights[-1]
    assert "1.990" in lines[1]
    assert "0.025" in lines[-2]
    assert lines[-1].split() == ["0", "step", "199"]
    assert list(curve([(1, 2.0)], "loss")) == []
    assert len(list(curve([(1, 2.0), (2, 2.0), (3, float("nan"))], "loss"))) == HEIGHT + 2
