"""An option that would do nothing is refused, whatever value it is given; nothing is where it was not typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from graphclone.cli import typed
from graphclone.cli.app import run

TEACHER = "of what a teacher says: give --teacher PARENT.onnx too"
PLAN = "--plan already says how neurons and blocks were chosen: leave it out"
TIMED = "a run is timed for --latency alone: give that as well, or leave it out"
MERGE = "--merge adds up files of statistics, which were measured: leave it out"
CACHE = "FLAG says how much of what a teacher says is kept: give --cache, or leave FLAG out"
WSD = "FLAG says when its learning rate falls: give --schedule wsd, or leave FLAG out"
JUDGED = "nothing is held out to evaluate on (--held-out 0): leave it out"
TRAIN = ("train", "MODEL", "--data", "random:3", "-o", "out.onnx")
TAUGHT = (*TRAIN, "--teacher", "MODEL")
CLONE = ("clone", "MODEL", "out.onnx", "--plan", "plan.json")
MERGED = ("measure", "--merge", "one", "two", "-o", "out")
DATA = "FLAG says how --data is read: give --data, or leave FLAG out"
RATIO = "FLAG says how --max-latency-ratio is timed: give --max-latency-ratio, or leave FLAG out"
RUN = "a run folder holds its own statistics, training and losses: give it alone"
LAYERS = "FLAG says that --layers may be more than the parent has: give --layers, or leave FLAG out"
DEPTH = "chooses which blocks go, and none is to: give --layers, or leave it out"
PARENT = "no limit is held against the parent: give one that is, such as 50%, or leave it out"
SHAPE = ("plan", "MODEL", "--hidden", "32", "--importance", "first")
BOTH = ("report", "MODEL", "MODEL")
CHECK = ("check", "MODEL", "--max-params", "50M")


def of(spec: str) -> tuple[str, ...]:
    return ("measure", "MODEL", "--data", spec, "-o", "stats")


def kind(looks: str) -> str:
    return f"does nothing for {looks}: leave it out"


ARRAYS, DOCS = kind(".npz files keyed by input names"), kind("python-docs (Python's own language reference)")
OTHER_KINDS = [
    (of("../x.npz"), ("--tokenizer", "none.json"), ARRAYS),
    (of("../x.npz"), ("--length", "128"), ARRAYS),
    (of("../x.npz"), ("--seed", "1"), ARRAYS),
    (of("python-docs"), ("--column", "body"), DOCS),
    (of("python-docs"), ("--images", "none"), DOCS),
    (of("../x.jsonl"), ("--images", "none"), kind(".jsonl files with a field text")),
    (of("random:1"), ("--tokenizer", "none"), kind("random:N (N batches of random inputs)")),
    (("clone", "MODEL", "out.onnx", "--hidden", "32", "--data", "../x.npz"), ("--tokenizer", "none"), ARRAYS),
    ((*BOTH, "--data", "../x.npz"), ("--tokenizer", "none"), ARRAYS),
]
REFUSED = [
    *((SHAPE, (flag, "3"), DATA) for flag in ("--limit", "--column", "--images", "--tokenizer", "--length", "--seed")),
    (("clone", "MODEL", "out.onnx", "--hidden", "32", "--stats", "s"), ("--batch-size", "8"), DATA),
    *((BOTH, (flag, "3"), DATA) for flag in ("--limit", "--tokenizer", "--length", "--batch-size")),
    (("report", "."), ("--runs", "3"), RUN),
    (("report", "."), ("--length", "3"), RUN),
    *((CHECK, (flag, "3"), RATIO) for flag in ("--lengths", "--runs", "--warmup", "--batch-size", "--threads")),
    (CHECK, ("--provider", "cpu"), RATIO),
    (CHECK, ("--parent", "none.onnx"), PARENT),
    (("plan", "MODEL", "--vocab", "../ids.txt"), ("--column", "body"), DATA),  # which has none
    (SHAPE, ("--deeper",), LAYERS),
    (SHAPE, ("--depth", "uniform"), DEPTH),
    *OTHER_KINDS,
    (CLONE, ("--importance", "equal-vote"), PLAN),  # the default, but somebody asked for it
    (CLONE, ("--method", "paper"), PLAN),
    (CLONE, ("--depth", "uniform"), PLAN),
    (CLONE, ("--timed", "1x64"), TIMED),
    (("clone", "MODEL", "out.onnx", "--params", "50%"), ("--timed", "1x128"), TIMED),
    (TRAIN, ("--teacher-weight", "0.3"), TEACHER),
    (TRAIN, ("--hidden-weight", "5"), TEACHER),
    (TRAIN, ("--cache", "said"), TEACHER),
    (TRAIN, ("--top", "3"), TEACHER),
    (TAUGHT, ("--top", "3"), CACHE),
    (TRAIN, ("--decay", "0.1"), WSD),
    (TRAIN, ("--evaluations", "8", "--held-out", "0"), JUDGED),
    (TRAIN, ("--keep", "best", "--held-out", "0"), JUDGED),
    (("train", "MODEL", "--data", "../x.npz", "-o", "out.onnx"), ("--length", "8"), ARRAYS),
    ((*TRAIN, "--task", "image-classification"), ("--length", "8"), "does nothing for images: leave it out"),
    (MERGED, ("--limit", "1"), MERGE),
    (MERGED, ("--resume",), MERGE),
    (MERGED, ("--shard", "1/2"), MERGE),
    (MERGED, ("--moments",), MERGE),
    (MERGED, ("--data", "random:2"), MERGE),
    (MERGED, ("--dry-run",), MERGE),
    (MERGED, ("--engine", "here"), MERGE),
    (MERGED, ("--seed", "0"), MERGE),
]


@pytest.fixture
def llama(parent_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "inside").mkdir()
    for name in ("x.npz", "x.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "inside")
    return str(parent_file("llama", exporter="dynamo"))


NAMES = [f"{words[0]} {more[0]} {number}" for number, (words, more, _) in enumerate(REFUSED)]


@pytest.mark.parametrize(("words", "more", "why"), REFUSED, ids=NAMES)
def test_an_option_that_would_do_nothing_is_refused(
    words: tuple[str, ...], more: tuple[str, ...], why: str, llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.replace("MODEL", llama) for word in (*words, *more)]) == 2
    said = why.replace("FLAG", more[0]) if "FLAG" in why else f"{more[0]}: {why}"
    assert f"{said}\n" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_two_that_would_do_nothing_are_named_together(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("MODEL", llama) for word in SHAPE]
    assert run([*words, "--limit", "3", "--column", "body"]) == 2
    assert "--column, --limit say how --data is read: give --data, or leave --column, --limit out\n" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("ratio", ["-1", "0", "nan", "inf"])
def test_a_ratio_that_is_none_is_said_before_anything_is_timed(
    ratio: str, llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", llama, "--parent", llama, "--max-latency-ratio", ratio, "--runs", "1"]) == 2
    assert "is no number above 0" in capsys.readouterr().err


def test_a_clone_has_a_name(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clone", llama, "-", "--hidden", "32", "--importance", "first"]) == 2
    assert "OUT -: a clone is examined as a file" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_lengths_of_a_model_without_any(parent_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    vit = str(parent_file("vit-tiny", exporter="dynamo"))
    assert run(["bench", vit, vit, "--lengths", "8,16", "--runs", "1", "--warmup", "0"]) == 2
    assert "have the same size whatever the length: give none" in capsys.readouterr().err


def test_what_does_something_is_taken(llama: str) -> None:
    """A tokenizer is read for --vocab as well, and a parent for a share."""
    Path("ids.txt").write_text("1 2 3")
    assert run(["plan", llama, "--vocab", "ids.txt", "--tokenizer", "none.json"]) == 5  # it is read
    assert run(["check", llama, "--parent", llama, "--max-params", "100%"]) == 0
    assert run(["plan", llama, "--layers", "1", "--depth", "uniform", "--importance", "first"]) == 0
    assert (
        run(["plan", llama, "--hidden", "32", "--data", "random:1", "--length", "8", "--seed", "1", "--limit", "1"])
        == 0
    )


def test_a_method_that_finds_nothing_to_do_is_said(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    measured = ("--data", "random:2", "--length", "8")
    assert run(["clone", llama, "out.onnx", "--ffn", "80", *measured, "--method", "norm-gain+mean-bias"]) == 0
    said = capsys.readouterr().err
    assert "warning: --method mean-bias found nothing to correct: no projection" in said
    assert "warning: --method norm-gain found nothing to correct: no norm is over fewer neurons" in said
    assert run(["clone", llama, "best.onnx", "--layers", "1", *measured]) == 0
    assert "warning" not in capsys.readouterr().err  # nobody asked for the passes that best is


def test_several_are_named_together(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*MERGED, "--length", "128", "--threads", "1"]) == 2
    assert f"--length, --threads: {MERGE}" in capsys.readouterr().err


def test_a_plan_alone_is_carried_out_by_its_own_method(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    how = ("--importance", "first", "--method", "none", "--depth", "uniform")
    assert run(["plan", llama, "--hidden", "32", "--layers", "2", *how, "-o", "plan.json"]) == 0
    assert run(["clone", llama, "out.onnx", "--plan", "plan.json", "--json"]) == 0
    assert json.loads(Path("plan.json").read_text())["importance"] == "first"
    assert Path("out.onnx").is_file()


def test_statistics_are_merged_where_nothing_else_is_typed(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("0", "1"):
        assert run(["measure", llama, "--data", "random:1", "--length", "8", "--seed", seed, "-o", seed]) == 0
    assert run(["measure", "--merge", "0", "1", "-o", "both", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["batches"] == 2


def test_help_still_says_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clone", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"default: {value}" in shown for value in ("equal-vote", "best"))


def test_an_engine_that_is_none_is_said_before_a_dry_run(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", llama, "--data", "random:2", "--dry-run", "--engine", "bogus"]) == 2
    assert "--engine 'bogus' is not one of here, ray" in capsys.readouterr().err


def test_nothing_is_refused_where_no_command_line_was_read() -> None:
    typed.refuse("no reason", "data")
