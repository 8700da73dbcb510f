"""A tournament: different starts, trained alike, on data that judges nobody by what he was trained on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphclone import in_torch, pipeline, strict_json, tournament
from graphclone.cli import tournaments
from graphclone.cli.app import run
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.planner import Target
from graphclone.pytorch.training import TrainingDiverged
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


def test_a_start_that_diverges_is_the_worst_and_the_others_go_on(
    entered: Field, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, said = list[str](), list[str]()
    whole = hold(entered, say=before.append)
    diverging, order = whole.winner.name, [line.partition(":")[0] for line in before]
    monkeypatch.setattr(in_torch, "train", _diverging(lambda number: order[number] == diverging))
    result = hold(entered, say=said.append)
    assert [s.name for s in result.standings] == [s.name for s in whole.standings if s.name != diverging] + [diverging]
    assert result.winner.name == whole.standings[1].name
    assert (result.standings[-1].score, result.standings[-1].before) == (math.inf, None)
    assert any(line.startswith(f"{diverging}: diverged, ") for line in said)
    tournaments.print_standings(result)
    shown = capsys.readouterr().out.splitlines()
    assert next(line for line in shown if line.startswith(diverging)).split()[-4:-2] == ["-", "inf"]
    assert json.loads(strict_json.dumps(result.as_dict()))["standings"][-1]["score"] == "inf"


def test_where_every_start_diverges_there_is_no_winner(entered: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_torch, "train", _diverging(lambda number: True))
    with pytest.raises(InvalidTarget, match=r"every start of the tournament diverged: try a lower rate than 0.003"):
        hold(entered)


def _diverging(when: Callable[[int], bool]) -> Callable[..., Any]:
    """``train``, of whose calls some diverge."""
    real, calls = in_torch.train, itertools.count()

    def train(*given: Any, **more: Any) -> Any:
        if when(next(calls)):
            raise TrainingDiverged("the loss is nan at step 2")
        return real(*given, **more)

    return train


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
