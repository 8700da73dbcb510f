"""A run of a recipe, told from its folder: whole, broken off, or of another time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from graphclone.cli.app import run
from graphclone.errors import BadData, BadModel
from graphclone.plan import Plan
from graphclone.report.page import render
from graphclone.report.runs import tell_run

RECIPE = """
parent: {parent}
data: {{source: "random:8", length: 8, batch_size: 2}}
targets:
  small: {{hidden: 50%, ffn: 50%, layers: 2}}
  tiny: {{hidden: 16, layers: 1, training: {{steps: 2, held_out: 1, evaluations: 2, twin: true}}}}
  none: {{heads: 3}}
bench: {{runs: 2, warmup: 1, lengths: [8]}}
check: {{max_params: 50%}}
"""


@pytest.fixture(scope="module")
def folder(parent_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("run")
    (where / "recipe.yaml").write_text(RECIPE.format(parent=parent_file("llama", exporter="dynamo")))
    assert (
        run(["run", str(where / "recipe.yaml"), "-o", str(where / "out"), "--quiet"]) != 0
    )  # three heads there are not
    return where / "out"


def test_a_run_is_told_from_its_record(folder: Path) -> None:
    facts = tell_run(folder)
    record = json.loads((folder / "run.json").read_text())
    assert facts.title == "recipe"
    assert [clone.name for clone in facts.clones] == ["small", "tiny", "none"]
    small, tiny, none = facts.clones
    assert not small.sheets[0].loss
    assert small.sheets[0].timings[0].length == 8
    assert {row.name for row in small.gates} >= {"parameters"}
    assert [sheet.role for sheet in tiny.sheets] == ["clone", "trained"]
    assert [arm.label for arm in tiny.curves] == ["tiny", "tiny, from random weights"]
    assert tiny.sheets[0].loss == tiny.curves[0].held_out[0][1]
    assert not none.sheets
    assert "heads" in none.problem
    (planned,) = (row for row in record["rows"] if (row["step"], row["target"]) == ("plan", "small"))
    assert Plan.from_json(small.plan) == Plan.read(folder / planned["outputs"]["plan"])
    assert facts.influence
    assert len(facts.maps[0].cuts) == 2
    assert facts.commands == (record["command"],)
    assert none.problem.partition("(")[0] in render(facts)


def test_a_run_whose_parent_is_gone_or_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no run\.json"):
        tell_run(tmp_path)
    held = json.loads((folder / "run.json").read_text())
    held["parent"]["path"] = str(tmp_path / "gone.onnx")
    (tmp_path / "run.json").write_text(json.dumps(held))
    with pytest.raises(BadModel, match=r"gone\.onnx.* no longer there"):
        tell_run(tmp_path)


def test_a_run_that_was_broken_off_is_told_as_far_as_it_went(folder: Path, tmp_path: Path) -> None:
    held = json.loads((folder / "run.json").read_text())
    held["rows"] = [row for row in held["rows"] if row["step"] in {"measure", "plan"}]
    (tmp_path / "run.json").write_text(json.dumps(held))
    for file in (folder / "statistics.safetensors", folder / "targets"):
        if file.exists():
            (tmp_path / file.name).symlink_to(file)
    facts = tell_run(tmp_path)
    assert [clone.problem for clone in facts.clones[:2]] == ["no clone was written"] * 2
    assert "no clone was written" in render(facts)
