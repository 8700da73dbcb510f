"""A whole experiment on a seeded parent: tuned, run, stopped, gone on with, and what its report says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speedup import beside, curves, encoder, findings, report, runs
from benchmarks.speedup.arithmetic import Interval
from benchmarks.speedup.arms import ARMS, Source
from benchmarks.speedup.config import Config, Grid
from benchmarks.speedup.curves import Curve, Key
from benchmarks.speedup.language import dress, loss
from benchmarks.speedup.prepared import Prepared, Task
from graphclone import pipeline
from graphclone.errors import BadData
from tests.pytorch.training.conftest import counting

SHAPE = {"hidden": 24, "layers": 1}
NAMES = ("random", "random-matched", "paper", "default")


def config(root: Path) -> Config:
    return Config(
        "tiny", "language", SHAPE, 16, 2, (4, 2, 1), Grid((2e-3, 4e-3), (2e-3, 4e-3)), Grid((0.1,), (0.1,)), (1, 2),
        NAMES, {}, warmup=2, evaluations=3, tuned_at=2, longest=2, whole=("paper",), root=root,
    )  # fmt: skip


@pytest.fixture(scope="module")
def source(parent_file: Callable[..., Path]) -> Source:
    parent = pipeline.load(parent_file("llama", exporter="dynamo"))
    anatomy = pipeline.inspect(parent)
    held = pipeline.measure(parent, counting(3), anatomy=anatomy, moments=True)
    return Source(parent, anatomy, lambda: held, SHAPE, lambda plan: None)


def prepared(root: Path, source: Source) -> Prepared:
    task = Task(lambda *_: None, ("input_ids", "attention_mask"), loss, dress, "tokens", "nats a token")
    train, judged = (
        {name: np.concatenate([b[name] for b in batches]) for name in ("input_ids", "attention_mask")}
        for batches in (counting(8), counting(2, seed=9))
    )
    return Prepared(config(root), task, root, source, train, judged)


def test_an_experiment_runs_once_and_goes_on_where_it_was_stopped(tmp_path: Path, source: Source) -> None:
    held, said = prepared(tmp_path, source), []
    runs.everything(held, NAMES, (1, 2), said.append)
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.csv")}
    assert len(files) == 2 * (2 + 2) + 2 * (3 + 2)  # tuning (clones: a decay too), and seeds
    found = findings.of(held.config)
    assert list(found) == list(NAMES)
    assert {len(one.curves) for one in found.values()} == {2}
    assert found["random"].random is not None
    assert found["random"].random.mean == pytest.approx(1.0)
    assert found["paper"].end(16) is not None
    assert found["default"].end(16) is None  # runs to B / 2
    # each start is another, and pairs share the rows
    assert len({round(one.before or 0.0, 3) for one in found.values()}) == len(NAMES)

    said.clear()
    runs.everything(held, NAMES, (1, 2), said.append)
    assert not [line for line in said if " s)" in line]
    gone = tmp_path / "tiny" / "paper" / f"lr{found['paper'].rate:g}_wd0.1_seed2.csv"
    gone.unlink()
    runs.everything(held, NAMES, (1, 2), said.append)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.csv")} == files


def test_an_arm_may_warm_up_longer_than_the_experiment_does(tmp_path: Path, source: Source) -> None:
    held = prepared(tmp_path, source)
    made = {name: runs.learner(held, ARMS[name], Key(name, 1e-3, 0.1, 0)) for name in ("random", "random-warm")}
    assert made["random"].config.warmup == held.config.warmup == 2
    assert made["random-warm"].config.warmup == ARMS["random-warm"].warmup > 2


def line(slope: float, horizon: float, level: float) -> dict[int, float]:
    """A loss linear in log(steps) that comes to ``level`` at a horizon."""
    return {h: level - slope * math.log(h / horizon) for h in (4, 8, 16)}


def test_what_the_report_says_is_what_the_curves_say(tmp_path: Path) -> None:
    held = replace(config(tmp_path), arms=("random", "paper", "paper+gain", "paper-unscaled"), whole=())
    for rate, extra in ((2e-3, 0.0), (4e-3, 0.5)):
        for name in held.arms:
            curves.write(held, Key(name, rate, 0.1, 0), Curve({16: 5.0 + extra, 8: 5.0 + extra}, {0: 9.0}))
            curves.write(held, Key(name, rate, 0.01, 0), Curve({16: 5.0 + extra, 8: 5.0 + extra}, {0: 9.0}))
    for seed, level in ((1, 5.0), (2, 4.5)):
        ends = {
            "random": {16: level},
            "paper": line(0.3, 8.0, level),
            "paper+gain": line(0.4, 5.0, level),
            "paper-unscaled": line(0.3, 12.0, level),
        }
        for name, curve in ends.items():
            curves.write(held, Key(name, 2e-3, 0.1, seed), Curve(curve, {0: 9.0 + seed}))
    found = findings.of(held)
    assert {one.rate for one in found.values()} == {2e-3}
    assert found["paper"].random.mean == pytest.approx(2.0, rel=1e-4)
    assert found["paper+gain"].random.mean == pytest.approx(3.2, rel=1e-4)
    assert found["paper+gain"].early.mean == pytest.approx(8 / 5, rel=1e-4)
    assert found["paper"].before == pytest.approx(10.5)
    levers = {one.arm.name: sooner.mean for one, sooner in findings.levers(held, found)}
    assert levers == pytest.approx({"paper+gain": 12 / 5, "paper-unscaled": 8 / 12}, rel=1e-4)
    text = report._experiment(held, found, tmp_path)
    assert "| paper | 2.00 (2.00 to 2.00) |" in text
    scaling = "scaling weights by sqrt(d/d') is better than leaving them (paper against paper-unscaled)"
    assert f"{scaling}: after 8 steps it holds here" in text
    assert "Not finished" not in text
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "speedup-tiny.png", "speedup-tiny-rates.png", "speedup-tiny-levers.png", "speedup-tiny-claims.png",
    }  # fmt: skip


def test_arms_are_held_against_the_stronger_of_the_papers(tmp_path: Path) -> None:
    held = replace(config(tmp_path), arms=("random", "random-warm", "paper", "paper-long", "default"), seeds=(1,))
    for name in ("random", "random-warm", "paper", "default"):
        for rate, later in zip(held.rates.start, (5.0, 4.0 if name == "paper" else 6.0), strict=True):
            for decay in (0.1, 0.01):
                curves.write(held, Key(name, rate, decay, 0), Curve({16: later, 8: 1000 * rate}))
    ends = {
        ("random", 2e-3): {16: 5.0},
        ("random-warm", 2e-3): {16: 4.8},
        ("paper", 2e-3): line(0.3, 8.0, 5.0),
        ("paper", 4e-3): line(0.9, 10.0, 5.0),  # the same method, as it is tuned for B
        ("default", 2e-3): line(0.5, 4.0, 5.0),
    }
    for (name, rate), curve in ends.items():
        curves.write(held, Key(name, rate, 0.1, 1), Curve(curve))
    found = findings.of(held)
    assert found["default"].early.mean == pytest.approx(2.0, rel=1e-4)  # against paper, there first
    assert found["paper-long"].early.mean == pytest.approx(0.8, rel=1e-4)
    lowest = ends["paper", 4e-3][16]
    assert lowest < ends["paper", 2e-3][16]
    there = 4.0 * math.exp((5.0 - lowest) / 0.5)
    assert found["default"].paper.mean == pytest.approx(16 / there, rel=1e-4)
    assert found["paper-long"].paper.mean == pytest.approx(1.0)
    said = "lower learning rate than a start from nothing: does not hold here: 0.004 against 0.002"
    text = report._experiment(held, found, tmp_path)
    assert said in text
    sooner = 16 / (4.0 * math.exp(0.2 / 0.5))
    lower = f"default {sooner:.2f} ({sooner:.2f} to {sooner:.2f})"
    assert "`random-warm` ends lower than `random`. Speed-ups against it: paper " in text
    assert lower in text
    assert "to the clones' advantage" in report._smaller(held, found)
    assert "All are tuned for the whole B" in report._smaller(replace(held, tuned_at=1), found)


def test_a_bound_is_printed_as_one_and_nothing_is_said_where_nothing_has_run(tmp_path: Path) -> None:
    held = replace(config(tmp_path), arms=("random", "paper"), whole=(), decays=Grid((0.01,), (0.01,)))
    assert findings.of(held) == {}
    for name in held.arms:
        for rate in held.rates.start:
            for decay in (0.01, 0.1):
                curves.write(held, Key(name, rate, decay, 0), Curve({16: 5.0, 8: 5.0}))
    curves.write(held, Key("random", 2e-3, 0.01, 1), Curve({16: 5.0}))
    curves.write(held, Key("paper", 2e-3, 0.01, 1), Curve({4: 4.0, 8: 3.5}))
    found = findings.of(held)
    assert report.said(found["paper"].random) == "> 4.00"
    assert report.said(None) == ""
    late = replace(found["paper"], random=Interval(1.8, 1.5, 2.0, 2, "<"))
    assert report._there(late.random, late) == "< 2.00"
    assert report._there(Interval(2.0, 2.0, 2.0, 2, "<"), late) == "not by step 8"
    assert report.said(Interval(1.0, 1.0, 1.0, 2, "?")).startswith("not known")
    assert found["paper"].paper is None  # nobody ran the paper's to B
    assert "Not finished: random, paper" in report._experiment(held, found, tmp_path)
    assert ARMS["paper"].against == ""


def test_the_order_of_pairs_asks_for_no_common_directions_and_tells_strangers() -> None:
    drawn = np.random.default_rng(0)
    rows = drawn.normal(size=(40, 8)).astype(np.float32)
    turn = np.linalg.qr(drawn.normal(size=(8, 8)))[0].astype(np.float32)
    assert beside.order(rows, 3.0 * rows @ turn) == pytest.approx(1.0, abs=1e-4)
    assert abs(beside.order(rows, drawn.normal(size=(40, 8)).astype(np.float32))) < 0.2
    assert 0.5 < beside.order(rows, rows + 0.3 * drawn.normal(size=rows.shape).astype(np.float32)) < 0.99


def test_what_no_clone_of_a_width_can_learn_is_what_lies_in_other_directions() -> None:
    drawn = np.random.default_rng(3)
    flat = {"target": drawn.normal(size=(200, 2)) @ drawn.normal(size=(2, encoder.WIDTH))}
    assert encoder.least(flat, flat, 2) == pytest.approx(0, abs=1e-9)
    assert encoder.least(flat, flat, 1) > 0.05
    right = {"target": np.eye(4, encoder.WIDTH)[[0, 0, 1, 2]]}
    assert encoder.least(right, {"target": np.eye(4, encoder.WIDTH)[[0, 3]]}, 1) == pytest.approx(0.5)


def test_what_stands_beside_is_of_encoders_alone_and_is_printed(tmp_path: Path, source: Source) -> None:
    held = prepared(tmp_path, source)
    with pytest.raises(BadData, match="only an encoder"):
        beside.write(held, print)
    assert beside.read(held.config, {}) == []
    held.config.folder.mkdir()
    row = {"model": "another", "parameters": 1234, "loss": 0.25, "order": 0.5}
    ours = row | {"model": "ours", "arm": "paper", "rate": 1e-3, "decay": 0.1}
    (held.config.folder / beside.FILE).write_text(json.dumps([row, ours]))
    tuned = findings.Finding(ARMS["paper"], 1e-3, 0.1, {}, {}, None, None, None)
    text = report._beside(beside.read(held.config, {"paper": tuned}))
    assert "| another | 1,234 | 0.250 | 0.500 |" in text
    assert "| ours |" in text
    assert beside.read(held.config, {"paper": replace(tuned, decay=1.0)}) == [row]  # tuned otherwise since
