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
TRAIN = ("train", "MODEL", "--data", "random:3", "-o", "out.onnx")
CLONE = ("clone", "MODEL", "out.onnx", "--plan", "plan.json")
MERGED = ("measure", "--merge", "one", "two", "-o", "out")
REFUSED = [
    (CLONE, ("--importance", "equal-vote"), PLAN),  # the default, but somebody asked for it
    (CLONE, ("--method", "paper"), PLAN),
    (CLONE, ("--depth", "uniform"), PLAN),
    (CLONE, ("--timed", "1x64"), TIMED),
    (("clone", "MODEL", "out.onnx", "--params", "50%"), ("--timed", "1x128"), TIMED),
    (TRAIN, ("--teacher-weight", "0.3"), TEACHER),
    (TRAIN, ("--hidden-weight", "5"), TEACHER),
    (TRAIN, ("--cache", "said"), TEACHER),
    (TRAIN, ("--top", "3"), TEACHER),
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
    monkeypatch.chdir(tmp_path)
    return str(parent_file("llama", exporter="dynamo"))


@pytest.mark.parametrize(("words", "more", "why"), REFUSED, ids=[f"{r[0][0]} {r[1][0]}" for r in REFUSED])
def test_an_option_that_would_do_nothing_is_refused(
    words: tuple[str, ...], more: tuple[str, ...], why: str, llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.replace("MODEL", llama) for word in (*words, *more)]) == 2
    assert f"{more[0]}: {why}\n" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_several_are_named_together(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*MERGED, "--length", "128", "--threads", "1"]) == 2
    assert f"--length, --threads: {MERGE}" in capsys.readouterr().err


def test_a_plan_alone_is_carried_out_by_its_own_method(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    how = ("--importance", "first", "--method", "none", "--depth", "uniform")
    assert run(["plan", llama, "--hidden", "32", *how, "-o", "plan.json"]) == 0
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
