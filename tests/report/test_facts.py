"""What the page says is what the files hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import graphclone as gc
from graphclone.cli.app import run
from graphclone.errors import BadData, InvalidTarget
from graphclone.plan import Plan
from graphclone.report import charts
from graphclone.report.curves import MOST_POINTS, curves, thinned
from graphclone.report.facts import Curve, Facts, Map
from graphclone.report.page import render
from graphclone.report.story import Given, tell
from graphclone.statistics.request import Calibration
from tests.report.conftest import Made

LARGEST = 5_000_000  # bytes of a page


def test_counts_are_the_plans(facts: Facts, made: Made) -> None:
    anatomy, clone = gc.inspect(gc.load(made.parent)), gc.load(made.clone)
    plan = Plan.from_json(clone.metadata["graphclone.plan"])
    (told,) = facts.clones
    assert facts.parent.parameters == anatomy.parameters
    assert told.sheets[0].parameters == gc.inspect(clone).parameters
    assert told.sheets[0].bytes == made.clone.stat().st_size
    (dropped,) = told.dropped.values()
    assert dropped == plan.drop_blocks["blocks"]
    for part in told.parts:
        if part.kind == "feed-forward":
            kept = plan.keep[f"blocks.{part.block}.ffn"] if part.block not in dropped else ()
            assert part.kept == len(kept)
    kinds = {row.kind: row for row in told.kept}
    assert (kinds["residual"].found, kinds["residual"].kept) == (anatomy.stacks[0].hidden, len(plan.keep["residual"]))
    assert (kinds["blocks"].found, kinds["blocks"].kept) == (
        len(anatomy.stacks[0].blocks),
        len(anatomy.stacks[0].blocks) - len(dropped),
    )
    assert Plan.from_json(told.plan) == plan
    assert {check.name for check in told.checks} >= {"onnx.checker", "slices follow the plan"}


def test_maps_hold_every_neuron_and_the_cut(facts: Facts, made: Made) -> None:
    anatomy = gc.inspect(gc.load(made.parent))
    plan = Plan.from_json(gc.load(made.clone).metadata["graphclone.plan"])
    stream, forward = facts.maps[0], next(m for m in facts.maps if m.neurons == "feed-forward neurons")
    assert all(scores.size == anatomy.stacks[0].hidden for scores in stream.rows.values())
    assert list(stream.cuts.values()) == [[len(plan.keep["residual"])] * len(stream.rows)]
    assert list(forward.rows) == [f"blocks.{block.index}.ffn" for block in anatomy.stacks[0].blocks]
    for scores in forward.rows.values():
        assert np.all(np.diff(scores) <= 0)
    assert len(facts.influence) == len(anatomy.stacks[0].blocks)
    shares = [p.share for p in facts.clones[0].parts if p.kind == "feed-forward" and p.kept]
    assert len(shares) == len(anatomy.stacks[0].blocks) - len(plan.drop_blocks["blocks"]) > 0
    assert all(share is not None and 0.5 < share < 1 for share in shares)


def test_a_cut_that_follows_other_scores_has_no_tick(made: Made) -> None:
    parent = gc.load(made.parent)
    anatomy = gc.inspect(parent)
    from graphclone.report.maps import maps, scores

    found = scores("magnitude", anatomy, parent, None)
    worst = tuple(sorted(np.argsort(found["residual"])[:8].tolist()))
    (stream, *_) = maps(anatomy, parent, None, found, {"odd": Plan(parent.sha256, {"residual": worst})})
    assert stream.cuts == {}


def test_without_statistics_weights_speak(made: Made) -> None:
    told = tell(Given(made.parent))
    assert told.scored_by.startswith("magnitude")
    assert told.maps
    assert not told.influence
    assert "Nothing was measured" in render(told)


def test_the_page_is_whole_and_small(facts: Facts, family: Facts) -> None:
    for one in (facts, family):
        text = render(one)
        assert len(text.encode()) < LARGEST
        markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
        addresses = re.findall(r"(?:src|href|action)=[\"']?([^\"'\s>]+)", markup)
        assert addresses
        assert all(a.startswith(("#", "data:")) for a in addresses), addresses
        assert "url(http" not in markup
        assert "@import" not in markup


def test_many_large_maps_stay_small(facts: Facts) -> None:
    rng = np.random.default_rng(0)
    rows = {f"blocks.{k}.ffn": -np.sort(-rng.random(14_336)) for k in range(96)}
    many = tuple(Map(f"map {k}", "", "neurons", rows, True, {"small": [100] * 96}) for k in range(4))
    text = render(replace(facts, maps=many))
    assert len(text.encode()) < LARGEST


def test_names_cannot_break_out_of_the_page(facts: Facts) -> None:
    evil = "</script><script>alert(1)</script><b a='"
    (clone,) = facts.clones
    text = render(
        replace(
            facts,
            title=evil,
            commands=(evil,),
            clones=(replace(clone, name=evil, curves=(Curve(evil, [(0, 1.0), (1, 0.5)]),)),),
        )
    )
    assert "<script>alert" not in text
    assert "<b a=" not in text


def test_curves_are_read_from_what_training_leaves(made: Made, tmp_path: Path) -> None:
    (one,) = curves(f"the clone={made.training}")
    assert (one.label, one.held_out[-1], len(one.losses)) == ("the clone", (4, 4.2), 4)
    assert curves(str(made.training))[0].label == "trained"
    arm = {"name": "clone", "steps": [0, 5], "losses": [3.0, 2.0]}
    (tmp_path / "results.json").write_text(json.dumps({"clone": arm, "twin": {**arm, "name": "random twin"}}))
    assert [c.label for c in curves(str(tmp_path))] == ["clone", "random twin"]


def test_logs_are_read(tmp_path: Path) -> None:
    from graphclone.pytorch.training.logs import Logs

    logs = Logs(tmp_path)
    logs.start(0)
    for step in range(3):
        logs.add(step + 1, train_loss=3.0 - step)
    logs.add(0, heldout_loss=4.0)
    logs.add(3, heldout_loss=1.5)
    logs.close()
    (one,) = curves(f"arm={tmp_path}")
    assert (list(one.held_out), list(one.losses)) == ([(0, 4.0), (3, 1.5)], [3.0, 2.0, 1.0])


@pytest.mark.parametrize("held", ["{", "[]", "{}", '{"losses": [1], "held_out": [[1]]}'])
def test_what_is_no_curve_is_refused(held: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(held)
    with pytest.raises(BadData, match="no training curve"):
        curves(str(file))


def test_long_curves_are_thinned_to_their_means() -> None:
    points = thinned(Curve("one", [], [float(k) for k in range(10 * MOST_POINTS)]))
    assert len(points) == MOST_POINTS
    assert points[0] == (10, 4.5)
    assert points[-1][0] == 10 * MOST_POINTS


def test_one_bad_start_does_not_flatten_the_curves() -> None:
    spec = charts.training([Curve("bad", [(0, 100.0), (5, 3.0)]), Curve("good", [(0, 5.0), (5, 4.0)])])
    assert spec is not None
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 2 < low < 3
    assert 5 < high < 6


def test_a_clone_of_another_parent_is_refused(made: Made, parent_file: object) -> None:
    other = parent_file("gpt2", exporter="dynamo")  # type: ignore[operator]
    with pytest.raises(InvalidTarget, match="a clone of another parent"):
        tell(Given(other, made.clone, runs=0))


def test_losses_of_a_clone_with_fewer_tokens_are_of_those_alone(made: Made, tmp_path: Path) -> None:
    parent, said = gc.load(made.parent), list[str]()
    anatomy = gc.inspect(parent)
    groups, kept = [name for name, g in anatomy.groups.items() if g.kind == "vocabulary"], tuple(range(5, 128, 2))
    plan = Plan(anatomy.fingerprint, dict.fromkeys(groups, kept), method="none")
    gc.save(gc.clone(parent, plan, anatomy=anatomy), tmp_path / "few.onnx")
    np.savez(tmp_path / "held.npz", input_ids=np.random.default_rng(1).integers(0, len(kept), (4, 9)))
    data = Calibration(str(tmp_path / "held.npz"))
    facts = tell(Given(made.parent, tmp_path / "few.onnx", data=data, runs=0), said.append)
    (sheet,) = facts.clones[0].sheets
    assert facts.parent.loss is not None
    assert sheet.loss == pytest.approx(facts.parent.loss, rel=1e-5)  # nothing but tokens was cut
    assert facts.parent.loss < np.log(len(kept)) + 1  # of 62 tokens, not of 128
    assert any("over the 62 tokens that few.onnx has" in line for line in said)

    words = Tokenizer(WordLevel({f"w{k}": k for k in range(128)}, unk_token="w0"))
    words.save(str(tmp_path / "words.json"))
    more = replace(data, tokenizer=str(tmp_path / "words.json"))
    with pytest.raises(BadData, match=r"128 tokens, few\.onnx has 62: give the clone's own tokenizer"):
        tell(Given(made.parent, tmp_path / "few.onnx", data=more, runs=0))


def test_commands_write_pages_or_say_why_not(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(["inspect", str(made.parent), "--html", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == page.stat().st_size
    assert run(["report", str(made.parent), str(made.clone), "--runs", "0", "-o", str(page)]) == 0
    assert "clones: 1" in capsys.readouterr().out
    for arguments, code, said in (
        (["report", str(tmp_path)], 5, "run.json"),
        (["report", str(made.parent)], 2, "PARENT and CLONE"),
        (["report", str(made.parent), str(made.parent), "--runs", "0"], 4, "no metadata"),
        (["report", str(made.parent), str(made.clone), "-o", str(made.clone)], 2, "also an input"),
        (["inspect", str(made.parent), "--stats", str(made.stats)], 2, "--html"),
    ):
        assert run(arguments) == code
        line = capsys.readouterr().err
        assert said in line, line
