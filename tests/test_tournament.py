"""A tournament: different starts, trained alike, on data that judges nobody by what he was trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphclone import pipeline, tournament
from graphclone.cli.app import run
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.planner import Target
from graphclone.tournament import Field, Training
from tests.pytorch.training.conftest import counting

ASKED = {"importance": "equal-vote", "method": "best", "depth": "paper"}
SHAPE = Target(hidden=24, layers=1)


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="dynamo")


@pytest.fixture(scope="module")
def entered(llama: Path) -> Field:
    parent = pipeline.load(llama)
    anatomy = pipeline.inspect(parent)
    return Field(parent, anatomy, pipeline.measure(parent, counting(4), anatomy=anatomy), ASKED)


def hold(entered: Field, steps: int = 6, **changes: Any) -> tournament.Result:
    given: dict[str, Any] = {"rounds": [lambda best: entered.methods(SHAPE)], "batches": counting(4),
                             "held_out": counting(2, seed=9), "training": Training(steps, 3e-3)}  # fmt: skip
    return tournament.hold(**(given | changes), parent=entered.parent)


def test_the_winner_is_the_one_whose_loss_is_least_and_all_are_told_of(entered: Field) -> None:
    result = hold(entered)
    assert len(result.standings) >= 3
    scores = [standing.score for standing in result.standings]
    assert scores == sorted(scores)
    assert result.winner.name == result.standings[0].name
    assert len({standing.name for standing in result.standings}) == len(result.standings)
    for standing in result.standings:
        assert standing.losses[0][0] == 0
        assert standing.losses[-1][0] == 6
        assert standing.seconds > 0
    assert result.seconds >= sum(standing.seconds for standing in result.standings) * 0.99
    assert {standing.parameters for standing in result.standings} == {result.standings[0].parameters}


def test_what_is_trained_is_what_training_that_clone_alone_gives(entered: Field) -> None:
    from graphclone.pytorch.training import TrainingOptions

    result = hold(entered)
    options = TrainingOptions(steps=6, learning_rate=3e-3, evaluate_every=1)
    _, history = pipeline.train(result.winner.make(), counting(4), options, held_out=counting(2, seed=9))
    assert tuple(history.evaluations) == result.standings[0].losses


def test_rounds_are_told_the_winner_so_far_and_nobody_meets_twice(entered: Field) -> None:
    seen: list[str | None] = []
    made: list[str] = []

    def counted(entrants: list[tournament.Entrant]) -> list[tournament.Entrant]:
        def noted(one: tournament.Entrant) -> Callable[[], Model]:
            return lambda: (made.append(one.name), one.make())[1]

        return [tournament.Entrant(e.name, e.plan, noted(e), e.target) for e in entrants]

    def first(best: tournament.Entrant | None) -> list[tournament.Entrant]:
        seen.append(None if best is None else best.name)
        return counted([entered.entrant(SHAPE, name="wide"), entered.entrant(Target(hidden=8, layers=1), name="thin")])

    def second(best: tournament.Entrant | None) -> list[tournament.Entrant]:
        assert best is not None
        assert best.target is not None
        seen.append(best.name)
        return counted(entered.methods(best.target))

    result = hold(entered, rounds=[first, second])
    assert seen[0] is None
    assert seen[1] in ("wide", "thin")
    assert made[:2] == ["wide", "thin"]
    assert "as asked" not in made  # the clone of the first round
    assert len(made) == len(result.standings)


def test_there_has_to_be_something_to_choose_and_something_to_judge_by(entered: Field) -> None:
    with pytest.raises(BadData, match="nobody trains on"):
        hold(entered, held_out=[])
    with pytest.raises(InvalidTarget, match="two different clones"):
        hold(entered, rounds=[lambda best: [entered.entrant(SHAPE), entered.entrant(SHAPE, name="again")]])


def test_the_score_is_the_mean_of_the_last_three_and_never_of_what_was_before() -> None:
    assert tournament.score([(0, 9.0), (1, 4.0)]) == 4.0
    assert tournament.score([(0, 1.0), (1, 8.0), (2, 4.0), (3, 3.0), (4, 2.0)]) == 3.0
    assert tournament.score([(0, 1.0), (1, math.nan)]) == math.inf
    assert tournament.score([(0, 1.0)]) == math.inf


def test_the_command_writes_the_winner_untrained_and_says_what_it_cost(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "small.onnx"
    batches = counting(8)
    np.savez(data, **{n: np.concatenate([b[n] for b in batches]) for n in batches[0]})
    asked = ["--hidden", "24", "--layers", "1", "--data", str(data), "--batch-size", "4", "--tournament", "5@3e-3"]
    assert run(["clone", str(llama), str(out), *asked, "--json"]) == 0
    shown = capsys.readouterr()
    met = json.loads(shown.out)["tournament"]
    assert met["task"] == "causal-lm"
    assert met["winner"] == met["standings"][0]["name"]
    assert met["seconds"] > 0
    assert f"tournament: {met['winner']} wins after 5 steps" in shown.err
    clone = pipeline.load(out)
    assert "graphclone.trained" not in clone.metadata
    assert json.loads(clone.metadata["graphclone.plan"])["importance"] == met["standings"][0]["importance"]
    assert run(["clone", str(llama), str(out), *asked]) == 0
    assert "Tournament (causal-lm, best first" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--tournament", "0"],
        ["--tournament", "some"],
        ["--tournament", "5@-1"],
        ["--tournament", "5"],
        ["--tournament", "5", "--depth", "greedy", "--data", "python-docs"],
    ],
    ids=" ".join,
)
def test_what_makes_no_tournament_is_a_usage_error(
    llama: Path, tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.onnx"
    assert run(["clone", str(llama), str(out), "--hidden", "24", "--layers", "1", *wrong]) == 2
    assert "tournament" in capsys.readouterr().err
    assert not out.exists()
