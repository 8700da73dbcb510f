"""Branches off one trunk are the runs that they stand for; curves on disk are what was run, and are found again."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from benchmarks.speedup import curves, language
from benchmarks.speedup.arms import ARMS, redrawn
from benchmarks.speedup.config import CONFIGS, Config, Grid, read
from benchmarks.speedup.curves import Curve, Key
from benchmarks.speedup.findings import PAPERS, trained
from benchmarks.speedup.prepared import Prepared, Rows, Task, Tensors, refuse_overlap
from benchmarks.speedup.runs import horizon_of, horizons_of, known, tune
from benchmarks.speedup.training import Learner, branch_share, branches, cosine, stable, trunk_share
from graphclone.errors import BadData


def config(root: Path = Path(), **changes: Any) -> Config:
    grids = {"rates": Grid((1e-3, 2e-3), (5e-4, 1e-3, 2e-3, 4e-3)), "decays": Grid((0.01, 0.1), (0.0, 0.01, 0.1))}
    made = Config(
        "tiny", "none", {}, 64, 4, (8, 4, 2, 1), **grids, seeds=(1, 2), arms=("random", "paper"), data={}, root=root,
        whole=("paper",),
    )  # fmt: skip
    return replace(made, **changes)


def loss(output: torch.Tensor, rows: Tensors) -> torch.Tensor:
    return ((output - rows["y"]) ** 2).mean()


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


TASK = Task(lambda *_: None, ("x",), loss, lambda module, *_: module, "rows", "squares")


def rows(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.arange(6).reshape(3, 2)).astype(np.float32)}


def learner(held: Config, seed: int = 0) -> Learner:
    torch.manual_seed(5)
    return Learner(Affine(), TASK, held, 0.05, 0.1, rows(0, 100), rows(1, 20), seed)


def test_a_branch_is_the_run_of_its_horizon_to_the_last_bit() -> None:
    held = config()
    together = branches(learner(held), [8, 16, 32, 64])
    alone = {h: branches(learner(held), [h]).ends[h] for h in (8, 16, 32, 64)}
    assert together.ends == alone


def test_a_run_learns_and_another_seed_has_another_order() -> None:
    held = config()
    curve = branches(learner(held), [16, 64])
    assert curve.ends[64] < curve.ends[16] < curve.trunk[0]
    assert branches(learner(held, seed=1), [64]).ends[64] != curve.ends[64]


def test_the_check_of_the_schedule_is_one_run_of_its_own() -> None:
    curve = cosine(learner(config()), [64])
    assert list(curve.ends) == [64]
    assert curve.ends[64] < curve.trunk[0]


@pytest.mark.parametrize("horizon", [8, 16, 64])
def test_the_rate_rises_stays_and_falls_to_nearly_nothing(horizon: int) -> None:
    held = config(warmup=4)
    start = stable(held, horizon)
    trunk = [trunk_share(held, step) for step in range(start)]
    decay = [branch_share(held, step, horizon) for step in range(start, horizon)]
    assert trunk == sorted(trunk)
    assert trunk[-1] == 1.0
    assert decay == sorted(decay, reverse=True)
    assert 0 < decay[-1] < decay[0] < 1
    assert len(trunk) + len(decay) == horizon


def test_curves_come_back_as_they_were_written_and_only_for_the_settings_they_were_run_with(tmp_path: Path) -> None:
    held, key = config(tmp_path), Key("paper", 2e-3, 0.0, 1)
    curve = Curve({16: 4.5, 8: 5.25}, {0: 9.0, 3: 8.125})
    curves.write(held, key, curve)
    assert curves.read(held, key) == curve
    assert curves.read(held, replace(key, seed=2)) == Curve()
    more = curves.merged(curve, Curve({64: 3.0}, {3: 8.0}))
    assert more == Curve({16: 4.5, 8: 5.25, 64: 3.0}, {0: 9.0, 3: 8.0})
    with pytest.raises(BadData, match="other settings"):
        curves.read(replace(held, batch=5), key)


def test_what_tuning_found_is_read_from_the_curves_and_not_before_it_ended(tmp_path: Path) -> None:
    held, arm = config(tmp_path, tuned_at=4), ARMS["paper"]
    horizon = horizon_of(held, arm)
    assert horizon == 16
    first = held.first[1]
    losses = {(1e-3, first): 5.0, (2e-3, first): 4.0, (4e-3, first): 4.5, (2e-3, 0.1): 3.5}
    for number, ((rate, decay), found) in enumerate(losses.items()):
        assert known(held, arm) is None, number
        curves.write(held, Key("paper", rate, decay, held.tuning_seed), Curve({horizon: found}))
    assert (found_ := known(held, arm)) is not None
    assert (found_.rate, found_.decay, found_.tried) == (2e-3, 0.1, losses)


def test_starts_from_nothing_are_tuned_where_their_loss_is_taken() -> None:
    held = config()
    assert horizon_of(held, ARMS["random"]) == 64
    assert horizons_of(held, ARMS["random"]) == [8, 16, 32, 64]
    assert horizons_of(held, ARMS["random-cosine"]) == [64]
    assert horizons_of(held, ARMS["paper"]) == [8, 16, 32, 64]
    assert horizons_of(held, ARMS["default"]) == [8, 16, 32]


def test_redrawn_matrices_have_the_deviation_and_nothing_else_of_what_they_were() -> None:
    torch.manual_seed(0)
    held, afresh = (nn.Sequential(nn.Linear(200, 300), nn.LayerNorm(300)) for _ in range(2))
    with torch.no_grad():
        held[0].weight.mul_(3).add_(0.5)
        held[1].weight.mul_(7)
    before = held[0].weight.detach().clone()
    redrawn(held, afresh, 3)
    after = held[0].weight.detach()
    assert float(after.std() / before.std()) == pytest.approx(1.0, rel=0.02)
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.01)
    assert abs(float(torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1])) < 0.02
    assert torch.equal(held[1].weight, afresh[1].weight)


def test_a_row_that_is_judged_may_not_be_trained_on() -> None:
    one, other = rows(0, 8), rows(1, 8)
    refuse_overlap(one, other, ("x",))
    with pytest.raises(BadData, match="row 2 of those held out"):
        refuse_overlap(one, {"x": np.concatenate([other["x"][:2], one["x"][5:6]])}, ("x",))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_experiment_is_read_and_names_arms_that_there_are(file: Path) -> None:
    held = read(file)
    assert held.name == file.stem
    assert set(held.arms) | set(held.whole) <= ARMS.keys()
    assert {held.nothing, "default"} <= set(held.arms)
    assert set(PAPERS) & set(held.arms)
    assert len(held.seeds) >= 5 or (held.again and len(held.seeds) >= 3)
    assert all(math.isclose(held.budget / d, held.steps(d)) for d in held.horizons)


@pytest.mark.parametrize("name", ["encoder", "language", "vision"])
def test_an_experiment_again_differs_in_what_is_judged_alone_and_tunes_nothing(name: str, tmp_path: Path) -> None:
    first, second = (replace(read(CONFIGS / f"{file}.toml"), root=tmp_path) for file in (name, f"{name}-fresh"))
    assert second.tunes == first
    assert second.digest != first.digest
    assert second.data | {"judged": first.data["judged"]} == first.data | {"passed": first.data["judged"]}
    assert set(second.seeds) <= set(first.seeds)
    parts = ("target", "budget", "batch", "horizons", "longest", "tuned_at", "nothing", "warmup")
    assert all(getattr(second, part) == getattr(first, part) for part in parts)
    assert known(second, ARMS["paper"]) is None
    for rate, decay in itertools.product(first.rates.ladder, first.decays.ladder):
        lost = abs(math.log(rate / 1e-3)) + decay
        curves.write(first, Key("paper", rate, decay, 0), Curve({horizon_of(first, ARMS["paper"]): lost}))
    found = known(second, ARMS["paper"])
    assert found is not None
    assert found == known(first, ARMS["paper"])


def test_a_second_round_finds_the_rate_that_the_decay_asks_for(tmp_path: Path) -> None:
    held, arm = config(tmp_path), ARMS["paper"]
    suits = {0.0: 2e-3, 0.01: 2e-3, 0.1: 5e-4}
    for rate, decay in itertools.product(held.rates.ladder, held.decays.ladder):
        lost = abs(math.log(rate / suits[decay])) - 30 * decay
        curves.write(held, Key("paper", rate, decay, 0), Curve({horizon_of(held, arm): lost}))
    first, second = known(held, arm), known(replace(held, rounds=2), arm)
    assert first is not None
    assert second is not None
    assert (first.rate, first.decay) == (2e-3, 0.1)
    assert (second.rate, second.decay) == (5e-4, 0.1)
    assert first.tried.items() < second.tried.items()


def test_steps_are_those_of_trunks_and_of_every_decay(tmp_path: Path) -> None:
    held = config(tmp_path)
    curves.write(held, Key("paper+gain", 6.25e-5, 0.1, 3), Curve({8: 5.0, 16: 4.0}, {0: 9.0}))  # 12, and 2 and 4
    curves.write(held, Key("random", 1e-3, 0.0, 0), Curve({64: 5.0}))
    curves.write(replace(held, batch=5), Key("random", 1e-3, 0.0, 1), Curve({64: 5.0}))  # of other settings
    assert [sorted(curve.ends) for curve in curves.every(held)] == [[8, 16], [64]]
    assert trained(held) == 12 + 2 + 4 + 64


def test_what_was_not_tuned_is_not_run_again(tmp_path: Path) -> None:
    held = replace(read(CONFIGS / "language-fresh.toml"), root=tmp_path)
    with pytest.raises(BadData, match="language has not tuned paper: run that first"):
        tune(Prepared(held, TASK, tmp_path, None, {}, {}), ARMS["paper"], print)  # type: ignore[arg-type]


def test_rows_that_were_judged_are_passed_over() -> None:
    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(40)}, "0"))
    tokenizer.pre_tokenizer = Whitespace()
    pieces = [" ".join(str(number) for number in range(k, k + 7)) for k in range(0, 35, 7)]
    judged = language._rows(tokenizer, pieces, 4, 3)  # of the first two pieces, of seven tokens each
    assert judged.ravel().tolist() == list(range(12))
    fresh = language._rows(tokenizer, language._after(tokenizer, pieces, judged.size), 4, 2)
    assert fresh.ravel().tolist() == list(range(14, 22))
    assert language._after(tokenizer, pieces, 14) == pieces[2:]
    assert language._after(tokenizer, pieces, 15) == pieces[3:]
    assert language._after(tokenizer, pieces, 0) == pieces
    with pytest.raises(BadData, match="9 rows of 4 are asked for: a text has 35 tokens"):
        language._rows(tokenizer, pieces, 4, 9)


def test_a_configuration_with_a_key_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    text = (CONFIGS / "language.toml").read_text()
    (tmp_path / "more.toml").write_text("colour = 1\n" + text)
    (tmp_path / "less.toml").write_text(text.replace("budget = ", "warmup = "))
    for name in ("more", "less"):
        with pytest.raises(BadData, match="unknown or missing"):
            read(tmp_path / f"{name}.toml")
