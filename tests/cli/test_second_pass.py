"""plan and budgets with methods that measure once more what is kept: read-in, pca, depth-patch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import graphclone as gc
from graphclone.cli.app import run

METHODS = ("best+read-in", "pca+best", "best+depth-patch")
DATA = ("--data", "random:8")


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> str:
    return str(parent_file("llama", exporter="dynamo"))


def asked(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    assert run([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    held = json.loads(capsys.readouterr().out)
    assert isinstance(held, dict)
    return held


@pytest.mark.parametrize("method", METHODS)
def test_what_plan_predicts_is_what_clone_then_writes(
    method: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "small.onnx"
    sizes = ("--hidden", "32", "--layers", "2", "--method", method)
    told = asked(capsys, "plan", llama, *sizes, *DATA, "-o", plan)
    asked(capsys, "clone", llama, out, "--plan", plan, *DATA)
    assert told["parameters"] == gc.inspect(gc.load(out)).parameters
    assert told["size"] == out.stat().st_size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["--params", "--size"])
def test_a_budget_is_met(
    method: str, budget: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.onnx"
    asked(capsys, "clone", llama, out, budget, "45%", "--method", method, *DATA)
    before = {"--params": gc.inspect(gc.load(llama)).parameters, "--size": Path(llama).stat().st_size}
    after = {"--params": gc.inspect(gc.load(out)).parameters, "--size": out.stat().st_size}
    assert 0.25 * before[budget] < after[budget] <= 0.45 * before[budget]
    made = json.loads(gc.load(out).metadata["graphclone.plan"])["method"]
    assert set(method.split("+")) - {"best"} <= set(made.split("+"))


def test_statistics_alone_make_a_plan_and_a_warning(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats, plan, out = (tmp_path / name for name in ("stats.safetensors", "plan.json", "small.onnx"))
    asked(capsys, "measure", llama, *DATA, "-o", stats)
    given = ("plan", llama, "--hidden", "32", "--method", "pca", "--stats", stats, "-o", plan)
    assert run([*map(str, given), "--json"]) == 0
    told = capsys.readouterr()
    assert "warning: the bytes lack what is noted of a second pass: pca measures once more" in told.err
    assert run(["clone", llama, str(out), "--plan", str(plan), "--stats", str(stats)]) == 2
    asked(capsys, "clone", llama, out, "--plan", plan, *DATA)
    assert json.loads(told.out)["parameters"] == gc.inspect(gc.load(out)).parameters


def test_a_plan_that_cannot_be_predicted_leaves_no_file(parent_file: Callable[..., Path], tmp_path: Path) -> None:
    plan, parent = tmp_path / "plan.json", str(parent_file("bert", exporter="dynamo"))
    assert run(["plan", parent, "--layers", "2", "--timed", "1x128", "-o", str(plan)]) == 2  # it has 64 positions
    assert not plan.exists()


@pytest.mark.parametrize(
    ("recipe", "method", "said"),
    [("llama", "best+reed-in", "is not one of best"), ("bert", "pca+best", "which subtracts a mean; leave pca out")],
)
def test_a_method_that_is_none_is_said_before_a_budget_is_measured(
    recipe: str, method: str, said: str, parent_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    parent = str(parent_file(recipe, exporter="dynamo"))
    assert run(["plan", parent, "--params", "50%", "--method", method, *DATA]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "measuring" not in told


@pytest.mark.parametrize(
    "given",
    [("--params", "50%", *DATA), ("--layers", "2"), ("--layers", "2", "--stats", "no.st")],
)
def test_greedy_depth_says_what_it_lacks_before_anything_is_measured(
    given: tuple[str, ...], llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", llama, "--depth", "greedy", *given]) == 2
    told = capsys.readouterr().err
    assert "give --layers and --data, and no budget" in told
    assert "measuring" not in told


def test_blocks_do_not_go_one_by_one_where_blocks_are_added(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", llama, "--depth", "greedy", "--layers", "5", "--deeper", *DATA]) == 2
    told = capsys.readouterr().err
    assert "not deeper" in told
    assert "measuring" not in told
