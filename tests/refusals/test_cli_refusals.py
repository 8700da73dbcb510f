"""Bad input through the real command line: one line on standard error, the right exit code, no output, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import models
from graphclone.cli.app import run
from tests.refusals.conftest import FILE, GRAPH, USAGE, VERIFICATION, Refused

TARGET = ("--hidden", "32", "--data", "random:2")


def test_a_missing_file(refused: Refused, tmp_path: Path, clone: Path) -> None:
    got = refused("clone", tmp_path / "nowhere.onnx", clone, *TARGET)
    assert (got.code, "no such file" in got.line) == (FILE, True)


@pytest.mark.parametrize("keep", [0, 10, 5000, -40])
def test_a_truncated_file(refused: Refused, llama: Path, tmp_path: Path, clone: Path, keep: int) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(llama.read_bytes()[:keep])
    assert refused("clone", broken, clone, *TARGET).code == FILE
    assert refused("inspect", broken).code == FILE


@pytest.mark.parametrize("content", [b"not a model\n", b"PK\x03\x04" + bytes(100), b"\x08\x07", bytes(range(256))])
def test_not_an_onnx_file(refused: Refused, tmp_path: Path, clone: Path, content: bytes) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(content)
    assert refused("clone", wrong, clone, *TARGET).code == FILE
    assert refused("inspect", wrong).code == FILE
    assert refused("verify", wrong, wrong).code == FILE


def test_a_folder_is_no_model(refused: Refused, tmp_path: Path) -> None:
    assert refused("inspect", tmp_path).code == FILE


def test_external_data_that_is_missing(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(llama), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    (tmp_path / "apart.bin").unlink()
    got = refused("clone", apart, clone, *TARGET)
    assert (got.code, "apart.bin" in got.line) == (FILE, True)


@pytest.mark.parametrize(
    "target",
    [
        ("--hidden", "4096"),
        ("--hidden", "0"),
        ("--hidden", "0%"),
        ("--hidden", "150%"),
        ("--heads", "3"),
        ("--heads", "4", "--kv-heads", "3"),
        ("--ffn", "100000"),
        ("--layers", "0"),
        ("--layers", "99"),
        ("--head-dim", "512"),
        ("--hidden", "-5"),
        ("--hidden", "many"),
        ("--hidden", "1.5"),
        (),
    ],
)
def test_a_shape_out_of_reach(refused: Refused, llama: Path, clone: Path, target: tuple[str, ...]) -> None:
    assert refused("clone", llama, clone, *target, "--data", "random:2").code == USAGE
    assert refused("plan", llama, *target, "-o", clone.with_name("plan.json")).code == USAGE


def test_a_wrong_tokenizer(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    other = tmp_path / "tokenizer.json"
    words = {f"w{i}": i for i in range(400_000)} | {
        word: 400_000 + i for i, word in enumerate(text.read_text().split())
    }
    held = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    other.write_text(json.dumps(held | {"model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}))
    common = ("clone", llama, clone, "--hidden", "32", "--data", text)
    assert refused(*common, "--tokenizer", other).code == FILE  # ids beyond the embedding's rows
    other.write_text("{}")
    assert refused(*common, "--tokenizer", other).code == FILE
    assert refused(*common, "--tokenizer", tmp_path / "nowhere.json").code == FILE
    assert refused(*common).code in (USAGE, FILE)  # text without any tokenizer


def test_empty_data(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    empty, folder = tmp_path / "empty.txt", tmp_path / "folder"
    empty.touch()
    folder.mkdir()
    zero = tmp_path / "zero.npz"
    np.savez(zero, input_ids=np.zeros((0, 4), np.int64))
    for data in (empty, folder, zero, tmp_path / "nowhere", "random:0", "unheard-of"):
        assert refused("clone", llama, clone, "--hidden", "32", "--data", data).code in (USAGE, FILE)
        assert refused("measure", llama, "--data", data, "-o", clone.with_name("stats")).code in (USAGE, FILE)


def test_data_that_does_not_fit(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, pixel_values=np.zeros((2, 3, 8, 8), np.float32))
    got = refused("clone", llama, clone, "--hidden", "32", "--data", wrong)
    assert (got.code, "pixel_values" in got.line) == (FILE, True)


def test_files_of_another_kind(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    wrong = tmp_path / "wrong"
    for content in (b"", b"{}", b"[1]", b'{"parent": 3, "keep": {"a": 1}}', b"\xff\xfe" * 9):
        wrong.write_bytes(content)
        assert refused("clone", llama, clone, "--plan", wrong).code in (USAGE, FILE)
        assert refused("clone", llama, clone, "--hidden", "32", "--stats", wrong).code == FILE
        assert refused("pack", llama, wrong, "-o", clone).code == FILE


def test_a_plan_of_another_parent(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run(["plan", str(llama), "--hidden", "32", "--importance", "first", "-o", str(plan)]) == 0
    held = json.loads(plan.read_text())
    plan.write_text(json.dumps(held | {"parent": "0" * 64}))
    got = refused("clone", llama, clone, "--plan", plan)
    assert (got.code, "another parent" in got.line) == (USAGE, True)


def test_an_output_that_is_an_input(refused: Refused, llama: Path, tmp_path: Path) -> None:
    copy, link = tmp_path / "copy.onnx", tmp_path / "link.onnx"
    copy.write_bytes(llama.read_bytes())
    link.symlink_to(copy)
    for out in (copy, link, tmp_path / "out" / ".." / "copy.onnx"):
        assert refused("clone", copy, out, *TARGET).code == USAGE
    assert copy.read_bytes() == llama.read_bytes()


def test_a_folder_that_is_not_there_is_said_before_any_work(
    refused: Refused, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path) -> None:
        raise AssertionError(f"{path} was opened first")

    monkeypatch.setattr("graphclone.graph.load", opened)
    out = tmp_path / "no" / "clone.onnx"
    for line in (
        ("clone", llama, out, *TARGET),
        ("plan", llama, "-o", out, *TARGET),
        ("measure", llama, "-o", out, "--data", "python-docs"),
        ("report", llama, llama, "-o", out),
        ("inspect", llama, "--html", out),
        ("check", llama, "--max-params", "1M", "--junit", out),
        ("pack", llama, tmp_path / "w.safetensors", "-o", out),
        ("train", llama, "--data", "python-docs", "-o", out),
        ("torch", llama, "-o", out),
        ("hf", llama, "--like", llama, "-o", out),
    ):
        got = refused(*line)
        assert (got.code, "no such folder" in got.line) == (FILE, True), line[0]


def test_a_parent_is_no_clone(refused: Refused, llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refused("verify", llama, llama).code == VERIFICATION


def test_a_graph_without_blocks(refused: Refused, tmp_path: Path, clone: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    made = onnx.helper.make_graph([node], "one", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])])
    path = tmp_path / "relu.onnx"
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(made, opset_imports=[opset], ir_version=9), path)  # noqa: TID251  as a user's
    assert refused("inspect", path).code == GRAPH
    assert refused("clone", path, clone, *TARGET).code == GRAPH


@pytest.mark.parametrize(
    "line",
    [("unheard-of",), ("clone",), ("clone", "a", "b", "--unheard-of"), ("measure", "a", "-o", "b"), ("verify", "a")],
)
def test_usage(refused: Refused, line: tuple[str, ...]) -> None:
    assert refused(*line).code == USAGE


def test_weights_of_another_model(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"nothing": np.zeros(3, np.float32)}, weights)
    got = refused("pack", llama, weights, "-o", clone)
    assert (got.code, "nothing" in got.line) == (FILE, True)


def test_sequences_longer_than_the_model_can_take(refused: Refused, clone: Path) -> None:
    gpt2 = models.cached("gpt2", exporter="torchscript")
    got = refused("train", gpt2, "--data", "random:3", "--length", "100", "-o", clone)
    assert (got.code, "--length" in got.line) == (FILE, True)
    assert refused("train", gpt2, "--data", "random:2", "-o", clone).code == FILE  # all of it held out


def test_training_what_is_no_language_model(refused: Refused, tmp_path: Path, clone: Path) -> None:
    bert = models.cached("bert", exporter="torchscript")
    got = refused("train", bert, "--data", "random:2", "--held-out", "0", "--length", "16", "-o", clone)
    assert (got.code, "language model" in got.line or "logits" in got.line) == (FILE, True)


@pytest.mark.parametrize(
    "option", [("--learning-rate", "0"), ("--steps", "0"), ("--held-out", "-1"), ("--length", "x")]
)
def test_training_options_out_of_reach(refused: Refused, llama: Path, clone: Path, option: tuple[str, str]) -> None:
    assert refused("train", llama, "--data", "random:4", "-o", clone, *option).code == USAGE


def poisoned(llama: Path, path: Path, value: float) -> Path:
    """The parent with one number of a feed-forward weight that is none."""
    proto = onnx.load(llama)
    tensor = next(t for t in proto.graph.initializer if tuple(t.dims) == (64, 160) or tuple(t.dims) == (160, 64))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[3, 5] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["none", "paper"])
def test_weights_that_are_no_numbers(
    refused: Refused, llama: Path, tmp_path: Path, clone: Path, value: float, method: str
) -> None:
    wrong = poisoned(llama, tmp_path / "poisoned.onnx", value)
    given = ("clone", wrong, clone, "--hidden", "32", "--importance", "first", "--method", method)
    got = refused(*given)
    if method == "none":  # nobody computes with it before the examiner does
        assert got.code == VERIFICATION
        assert "the clone fails verification: runs at batch 1, length 3: output logits holds " in got.line
        assert "values that are not finite" in got.line
    else:
        assert got.code == FILE
        assert f"{wrong}: initializer " in got.line
        assert ": holds NaN or infinite numbers, or overflows when scaled by 1.41421" in got.line


def test_statistics_of_another_parent(refused: Refused, llama: Path, tmp_path: Path, clone: Path) -> None:
    other, stats = models.cached("gpt2", exporter="torchscript"), tmp_path / "stats"
    assert run(["measure", str(other), "--data", "random:2", "--length", "8", "-q", "-o", str(stats)]) == 0
    for command in (("clone", llama, clone), ("plan", llama)):
        got = refused(*command, "--hidden", "32", "--stats", stats)
        assert (got.code, "another parent" in got.line) == (USAGE, True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is a folder that nobody may write to")
def test_a_folder_that_may_not_be_written_to(refused: Refused, llama: Path) -> None:
    given = ("--hidden", "32", "--importance", "first")
    for command in (("clone", llama, "/proc/self/clone.onnx"), ("plan", llama, "-o", "/proc/self/plan.json")):
        got = refused(*command, *given)
        assert (got.code, "cannot be written" in got.line) == (FILE, True)


def test_too_few_tokens_are_a_warning_and_leave_the_slices(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clone.onnx"
    given = ["--ffn", "100", "--data", "random:2", "--length", "8", "--batch-size", "2"]
    assert run(["clone", str(llama), str(out), *given]) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("graphclone: warning")]
    assert len(said) == 1
    assert "weights keep their slices: moments of" in said[0]
    assert "3200 are needed (20 a neuron)" in said[0]
    assert out.is_file()


def test_a_budget_out_of_reach_names_what_is_near(refused: Refused, llama: Path, clone: Path) -> None:
    for budget in (("--params", "10"), ("--size", "1kB"), ("--latency", "1ms", "--timed", "8x512")):
        got = refused("plan", llama, *budget, "--importance", "first", "-o", clone.with_name("plan.json"))
        assert (got.code, "nearest: hidden" in got.line) == (USAGE, True), got.line
    got = refused("plan", llama, "--latency", "50%", "--timed", "8", "-o", clone.with_name("plan.json"))
    assert (got.code, "1x128" in got.line) == (USAGE, True)
