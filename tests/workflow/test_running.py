"""Runs of recipes: what is done once, what is done again, and what one failure leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

import graphclone as gc
from graphclone.cli.app import run
from graphclone.requirements import Feature, MissingPackage, Requirement
from graphclone.workflow.record import Record
from models.checkpoint import checkpoint

ROOT = Path(__file__).parents[2]
RECIPE = """
parent: parent.onnx
data: {source: data.npz}
targets:
  small: {hidden: 32, ffn: 50%}
  tiny: {layers: 1, ffn: 25%}
"""


@pytest.fixture
def recipe(parent_file: Callable[..., Path], tmp_path: Path) -> Path:
    shutil.copy(parent_file("llama", exporter="torchscript"), tmp_path / "parent.onnx")
    write_data(tmp_path / "data.npz", seed=0)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def write_data(file: Path, seed: int) -> None:
    np.savez(file, input_ids=np.random.default_rng(seed).integers(0, 97, (2, 12)))


def do(recipe: Path, *more: str) -> int:
    return run(["run", str(recipe), "-o", str(recipe.with_suffix("")), *more])


def steps(recipe: Path) -> dict[str, str]:
    """Step -> done, reused, failed or skipped."""
    record = Record.read(recipe.with_suffix(""))
    assert record is not None
    return {f"{row.target or ''}/{row.step}": "reused" if row.reused else str(row.state) for row in record.rows}


def test_a_family_measures_once_and_a_second_run_does_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(recipe, "--json") == 0
    first = capsys.readouterr()
    assert first.out.count("\n") == 1
    assert json.loads(first.out)["targets"] == ["small", "tiny"]
    assert steps(recipe) == dict.fromkeys(
        ["/measure", *(f"{name}/{step}" for name in ("small", "tiny") for step in ("plan", "clone", "verify"))], "done"
    )
    folder = recipe.with_suffix("")
    parent = gc.load(recipe.with_name("parent.onnx"))
    for name, hidden in (("small", 32), ("tiny", 64)):
        clone = gc.load(folder / name / "clone.onnx")
        assert gc.inspect(clone).stacks[0].hidden == hidden
        gc.verify(parent, clone).raise_if_failed()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.suffix in (".onnx", ".safetensors")}
    assert do(recipe) == 0
    told = capsys.readouterr()
    assert "nothing to do, 7 of 7 steps reused" in told.out
    assert "small: clone: reused" in told.err
    assert set(steps(recipe).values()) == {"reused"}
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_best_beside_another_pass_still_lets_least_squares_in(recipe: Path) -> None:
    recipe.write_text(RECIPE + "method: {correction: best+read-in}\n")
    assert do(recipe) == 0
    plan = json.loads((recipe.with_suffix("") / "small" / "plan.json").read_text())
    assert plan["method"] == "norm-gain+least-squares+read-in"


def test_only_what_follows_from_a_change_is_done_again(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(recipe) == 0
    assert do(recipe, "--set", "targets.tiny.ffn=50%") == 0
    again = steps(recipe)
    assert {step for step, state in again.items() if state == "done"} == {"tiny/plan", "tiny/clone", "tiny/verify"}
    clone = recipe.with_suffix("") / "small" / "clone.onnx"
    whole = clone.read_bytes()
    clone.write_bytes(whole[:-100])  # cut short by somebody
    assert do(recipe, "--set", "targets.tiny.ffn=50%") == 0
    assert clone.read_bytes() == whole
    assert steps(recipe)["small/clone"] == "done"
    assert steps(recipe)["small/plan"] == steps(recipe)["tiny/clone"] == "reused"
    write_data(recipe.with_name("data.npz"), seed=1)
    assert do(recipe, "--set", "targets.tiny.ffn=50%") == 0
    assert steps(recipe)["/measure"] == "done"


def test_one_unreachable_target_leaves_the_others_done(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(recipe, "--set", "targets.middle.hidden=900", "--set", "targets.last.layers=2") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("graphclone: middle: plan: hidden 900: ")
    assert lines[-1].endswith("(small, tiny, last are done)")
    assert any(line.startswith("middle: will fail: hidden 900") for line in lines[: lines.index("small: plan")])
    states = steps(recipe)
    assert (states["middle/plan"], states["middle/clone"], states["last/verify"]) == ("failed", "skipped", "done")
    assert not (recipe.with_suffix("") / "middle" / "clone.onnx").exists()
    assert do(recipe, "--set", "targets.middle.hidden=48", "--set", "targets.last.layers=2") == 0
    assert {s for s, state in steps(recipe).items() if state == "done"} == {
        "middle/plan",
        "middle/clone",
        "middle/verify",
    }


def test_a_parent_that_changed_under_a_run_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert do(recipe) == 0
    parent, folder = recipe.with_name("parent.onnx"), recipe.with_suffix("")
    proto = onnx.load(parent)
    proto.producer_version = "another"
    onnx.save(proto, parent)
    kept = (folder / "small" / "clone.onnx").read_bytes()
    capsys.readouterr()
    assert do(recipe) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was made from another parent" in line
    assert "-o ANOTHER keeps it, --refresh replaces it" in line
    assert (folder / "small" / "clone.onnx").read_bytes() == kept
    assert do(recipe, "--refresh") == 0
    assert set(steps(recipe).values()) == {"done"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("parent=nowhere.onnx", 5, "parent: "),
        ("data.source=nowhere.npz", 5, "there is no such file"),
        ("targets.small.pack=nowhere.safetensors", 5, "nowhere.safetensors: no such file"),
    ],
)
def test_missing_files_are_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], change: str, code: int, said: str
) -> None:
    assert do(recipe, "--set", change, "--quiet") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("graphclone: ")
    assert "nowhere" in line
    assert said in line


def test_a_package_that_is_missing_or_too_old_is_said_with_the_command() -> None:
    missing = Feature("x", "train", (Requirement("no-such-distribution-of-anyone", "1"),))
    with pytest.raises(
        MissingPackage, match=r"train: no-such-distribution-of-anyone is not installed: pip install '.*\[train\]'"
    ):
        missing.require("train")
    old = Feature("x", "cpu", (Requirement("numpy", "999.1"),))
    with pytest.raises(MissingPackage, match=r"numpy \d.* is older than 999.1"):
        old.require("train")


def test_training_killed_by_sigkill_is_gone_on_with(recipe: Path) -> None:
    changes = [
        "targets.tiny=null",
        "training.steps=16",
        "training.evaluations=1",
        "training.held_out=0",
        "training.keep=last",
    ]
    options = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "graphclone", "run", str(recipe), *options]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed, whole = recipe.with_name("killed"), recipe.with_name("whole")
    with subprocess.Popen([*command, "-o", str(killed)], env=where, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        partial = killed / "small" / "trained.onnx.partial"
        while child.poll() is None and not (partial.is_dir() and any(partial.iterdir())):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    if not (killed / "small" / "trained.onnx").exists():
        record = Record.read(killed)
        assert record is not None
        assert [row.step for row in record.rows if row.state == "running"] == ["train"]
    told = subprocess.run([*command, "-o", str(killed)], env=where, capture_output=True, text=True, check=True).stderr
    assert "small: clone: reused" in told
    assert "small: train: goes on where it was stopped" in told
    assert run(["run", str(recipe), *options, "-o", str(whole)]) == 0
    assert (killed / "small/trained.onnx").read_bytes() == (whole / "small/trained.onnx").read_bytes()
    assert not partial.exists()


def test_two_runs_are_not_at_one_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    folder = recipe.with_suffix("")
    folder.mkdir()
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert do(recipe) == 2
    assert "another run is at it" in capsys.readouterr().err


def test_everything_that_a_recipe_can_ask_for(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = (
        "targets.tiny=null", "training.steps=2", "training.evaluations=1", "training.held_out=0", "training.twin=true",
        "training.teacher=parent", "training.keep=last", "outputs.torch=true", "bench.runs=1", "bench.lengths=[8]",
        "check.max_params=90%",
    )  # fmt: skip
    assert do(recipe, *(word for change in changes for word in ("--set", change))) == 0
    folder = recipe.with_suffix("") / "small"
    wanted = {"trained.onnx", "twin.onnx", "torch", "bench.json", "check.json", "check.xml", "verification.json"}
    assert wanted <= {file.name for file in folder.iterdir()}
    record = Record.read(recipe.with_suffix(""))
    assert record is not None
    figures = {row.step: row.figures for row in record.rows}
    assert figures["bench"]["parent"]["timings"][0]["length"] == 8
    assert figures["train"]["losses"] != figures["twin"]["losses"]
    assert do(recipe, *(word for change in (*changes, "check.max_params=1%") for word in ("--set", change))) == 4
    assert "small: check: parameters: " in capsys.readouterr().err.splitlines()[-1]


def test_weights_trained_elsewhere_come_back_and_folders_for_others_are_written(recipe: Path) -> None:
    like = checkpoint("llama", recipe.parent / "like")
    asked = ("targets.tiny=null", "outputs.torch=true", f"outputs.hugging_face={like}", f"outputs.side_files={like}")
    assert do(recipe, *(word for change in asked for word in ("--set", change))) == 0
    folder = recipe.with_suffix("") / "small"
    ours = gc.inspect(gc.load(folder / "clone.onnx")).stacks[0]
    for config in (folder / "hugging_face" / "config.json", folder / "model" / "config.json"):
        said = json.loads(config.read_text())
        assert (said["hidden_size"], said["intermediate_size"]) == (32, ours.blocks[0].feed_forward[0].ffn)
    assert (folder / "hugging_face" / "model.safetensors").is_file()
    assert (folder / "model" / "model.onnx").read_bytes() == (folder / "clone.onnx").read_bytes()

    trained = load_file(folder / "torch" / "model.safetensors")
    name = next(name for name, array in trained.items() if array.ndim == 2)
    trained[name] = trained[name] + 1
    save_file(trained, recipe.parent / "elsewhere.safetensors")
    more = (*asked, "targets.small.pack=elsewhere.safetensors")
    assert do(recipe, *(word for change in more for word in ("--set", change))) == 0
    before, after = (gc.load(folder / file).constants() for file in ("clone.onnx", "packed.onnx"))
    changed = [key for key in before if not np.array_equal(before[key], after[key])]
    assert len(changed) == 1
    assert np.allclose(after[changed[0]], before[changed[0]] + 1)


def test_a_recipe_sets_apart_what_clone_does(recipe: Path, tmp_path: Path) -> None:
    """Both passes over the data leave out the batches that judge: the same request gives the same clone."""
    np.savez(recipe.with_name("data.npz"), input_ids=np.random.default_rng(0).integers(0, 97, (64, 32)))
    recipe.write_text(
        "parent: parent.onnx\ndata: {source: data.npz}\ntarget: {params: 50%}\nmethod: {correction: best+read-in}\n"
    )
    out = tmp_path / "c.onnx"
    given = ("--params", "50%", "--method", "best+read-in", "--data", str(recipe.with_name("data.npz")))
    assert run(["clone", str(recipe.with_name("parent.onnx")), str(out), *given]) == 0
    assert do(recipe) == 0
    made = recipe.with_suffix("") / "clone" / "clone.onnx"
    one, other = (gc.load(file).constants() for file in (out, made))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    measured = gc.Statistics.read(next(recipe.with_suffix("").rglob("statistics.safetensors")))
    assert measured.batches == 64 // 8 - 2


@pytest.mark.parametrize(
    "said",
    ["target: {params: 50%}\ndata: {source: data.npz}", "target: {hidden: 32}\ndata: {source: data.npz}",
     "target: {layers: 2}"],
)  # fmt: skip
def test_greedy_depth_says_what_it_lacks_before_it_measures(
    said: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(f"parent: parent.onnx\n{said}\nmethod: {{depth: greedy}}\n")
    assert do(recipe, "--dry-run") == 2
    assert "greedy drops blocks one by one: give layers, no budget, and data" in capsys.readouterr().err
