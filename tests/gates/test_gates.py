"""Gates on real files, timings of real processes, and the pipeline of docs/pipelines.md as it is written there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import graphclone as gc
from graphclone.cli.app import run
from graphclone.errors import BadData, InvalidTarget
from graphclone.timing.bench import bench

ROOT = Path(__file__).parents[2]
SCORES = """
def large(path): return path.stat().st_size / 1e6
def yes(path): return True
def no(path): return False
def broken(path): raise KeyError("label")
"""


@pytest.fixture(scope="module")
def parent(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="torchscript")


@pytest.fixture(scope="module")
def clone(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clone") / "clone.onnx"
    assert run(["clone", str(parent), str(out), "--layers", "1", "--ffn", "25%", "--importance", "first"]) == 0
    return out


def test_bench_runs_both_in_turns(parent: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(parent, clone, lengths=[8, 16], runs=3, warmup=1, threads=1)
    assert [timing.length for timing in found.clone.timings] == [8, 16]
    for one, file in ((found.parent, parent), (found.clone, clone)):
        assert one.bytes == file.stat().st_size
        assert one.parameters == gc.inspect(gc.load(file)).parameters
        assert one.memory, "counted from its own start, not from the peak of this larger process"
        for timing in one.timings:
            assert len(timing.seconds) == 3
            assert 0 < min(timing.seconds) <= timing.latency.low <= timing.latency.median <= max(timing.seconds)
            assert timing.throughput == pytest.approx((timing.length or 0) / timing.latency.median)
    pairs = zip(found.parent.timings[1].seconds, found.clone.timings[1].seconds, strict=True)
    assert found.ratios[1].median == sorted(c / p for p, c in pairs)[1]
    assert found.ratio == max(ratio.median for ratio in found.ratios)
    assert run(["bench", str(parent), str(clone), "--lengths", "8", "--runs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["setting"]["unit"] == "tokens"


def test_lengths_that_do_not_run(parent: Path, clone: Path, parent_file: Callable[..., Path]) -> None:
    gpt2 = parent_file("gpt2", exporter="torchscript")  # 64 positions in a table
    found = bench(gpt2, gpt2, runs=1, warmup=1)
    assert [timing.length for timing in found.parent.timings] == [32]
    with pytest.raises(BadData, match="the model has 64 positions: --lengths of 64 at most"):
        bench(gpt2, gpt2, lengths=[100_000], runs=1)
    with pytest.raises(InvalidTarget, match="1 or more"):
        bench(parent, clone, runs=0)
    vit = parent_file("vit-tiny", exporter="torchscript")
    with pytest.raises(InvalidTarget, match="the same size whatever the length"):
        bench(vit, vit, lengths=[8], runs=1)
    assert [timing.length for timing in bench(vit, vit, runs=1, warmup=0).parent.timings] == [None]


PASSING = {
    "parameters": ("--max-params", "10M"),
    "a share of them": ("--max-params", "90%"),
    "bytes": ("--max-size", "1GB"),
    "time": ("--max-latency-ratio", "1000"),
    "a score": ("--min-score", "{scores}:large=0.01"),
    "a share of the parent's": ("--min-score", "{scores}:large=5%"),
    "a verdict": ("--min-score", "{scores}:yes"),
}
FAILING = {
    "parameters": ("--max-params", "1k"),
    "a share of them": ("--max-params", "1%"),
    "bytes": ("--max-size", "1KB"),
    "time": ("--max-latency-ratio", "1e-9"),
    "a score": ("--min-score", "{scores}:large=1000"),
    "a share of the parent's": ("--min-score", "{scores}:large=100%"),
    "a verdict": ("--min-score", "{scores}:no"),
}
TIMED = ("--runs", "1", "--warmup", "0", "--lengths", "8")


@pytest.mark.parametrize(("rows", "code"), [(PASSING, 0), (FAILING, 4)], ids=["passing", "failing"])
@pytest.mark.parametrize("name", PASSING)
def test_gates(
    rows: dict[str, tuple[str, str]],
    code: int,
    name: str,
    parent: Path,
    clone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "scores.py").write_text(SCORES)
    flag, limit = rows[name]
    asked = [flag, limit.format(scores=tmp_path / "scores.py")]
    xml = tmp_path / "gates.xml"
    beside = ["--parent", str(parent)] if name == "time" or limit.endswith("%") else []
    more = TIMED if name == "time" else ()
    line = ["check", str(clone), *beside, *asked, *more, "--junit", str(xml), "--json", "--quiet"]
    assert run(line) == code
    told = capsys.readouterr()
    assert told.out.count("\n") == 1
    held = json.loads(told.out)
    assert (held["passed"], len(held["checks"])) == (code == 0, 1)
    suite = ET.parse(xml).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0" if code == 0 else "1")
    assert (suite.find("testcase/failure") is None) == (code == 0)
    assert (told.err == "") == (code == 0)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ((), 2, "nothing to check"),
        (("--max-params", "40%"), 2, "give it (--parent PARENT.onnx)"),
        (("--max-params", "many"), 2, "write it as 50M or 50%"),
        (("--max-latency-ratio", "0.5"), 2, "--parent PARENT.onnx"),
        (("--min-score", "accuracy"), 2, "name a function"),
        (("--min-score", "{scores}:large"), 2, "say how much is enough"),
        (("--min-score", "{scores}:broken=1"), 5, "KeyError: 'label'"),
        (("--min-score", "{scores}:nothing=1"), 5, "has no function 'nothing'"),
    ],
)
def test_gates_that_cannot_be_measured_say_why(
    asked: tuple[str, ...], code: int, said: str, clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.py").write_text(SCORES)
    words = [word.format(scores=tmp_path / "scores.py") for word in asked]
    assert run(["check", str(clone), *words, "--quiet"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_documented_pipeline_runs_as_written(parent: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/pipelines.md").read_text()
    script, recipe, score = (
        re.search(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for kind in ("bash", "yaml", "python")
    )
    assert script
    assert recipe
    assert score
    for name, block in (("ship.sh", script), ("recipe.yaml", recipe), ("quality.py", score)):
        (tmp_path / name).write_text(block[1])
    shutil.copy(parent, tmp_path / "parent.onnx")
    program = tmp_path / "bin" / "graphclone"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m graphclone "$@"\n')
    program.chmod(0o755)
    where = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "ship.sh"], cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [Path(held["clone"]).parent.name for held in told] == ["half", "shallow"]
    assert (tmp_path / "run/half/gates.xml").exists()
    stricter = (tmp_path / "ship.sh").read_text().replace("--max-params 60%", "--max-params 1%")
    (tmp_path / "ship.sh").write_text(stricter)
    failed = subprocess.run(["bash", "ship.sh"], cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    assert failed.returncode == 4
