"""``graphclone measure``: what it says before, while and after it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graphclone.cli.app import run
from graphclone.statistics.store import Statistics

COUNTED = """
from pathlib import Path
import numpy as np

def batches():
    for number in range(1000):
        with (Path(__file__).parent / "made").open("a") as file:
            file.write(f"{number}\\n")
        yield {"input_ids": np.full((2, 5), number % 7)}
"""


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="dynamo")


PLACES = {
    "folder": "a folder, not a file to write",
    "none/stats": "no such folder",
    "/proc/self/stats": "cannot be written",
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder that nobody may write to")
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_read(
    place: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.py").write_text(COUNTED)
    assert run(["measure", str(llama), "--data", f"{tmp_path}/mine.py:batches", "-o", str(tmp_path / place)]) == 5
    assert PLACES[place] in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "mine.py"}


def test_sums_that_cannot_be_written_in_the_end_are_kept(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder takes the output's name while the run is on."""
    out = tmp_path / "stats"
    made = f"import pathlib\n{COUNTED}".replace("range(1000)", "range(3)")
    (tmp_path / "mine.py").write_text(f"{made}    pathlib.Path({str(out)!r}).mkdir(exist_ok=True)\n")
    line = ["measure", str(llama), "--data", f"{tmp_path}/mine.py:batches", "-o", str(out)]
    assert run(line) == 5
    assert f"the first 3 batches are kept in {out}.partial, --resume goes on from there" in capsys.readouterr().err
    out.rmdir()
    (tmp_path / "mine.py").write_text(made)
    assert run([*line, "--resume"]) == 0
    assert Statistics.read(out).batches == 3
    assert not out.with_name("stats.partial").exists()


def test_a_dry_run_says_what_and_how_much_and_writes_nothing(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["measure", str(llama), "--data", "random:40", "--length", "12", "--batch-size", "3", "--dry-run"]
    assert run([*line, "--json"]) == 0
    said = capsys.readouterr()
    held = json.loads(said.out)
    assert (held["batches"], held["exact"], list(held["placement"])) == (40, True, ["CPUExecutionProvider"])
    assert held["inputs"]["input_ids"] == "int64[3, 12]"
    assert held["filled"] == {"attention_mask": "nothing masked"}
    assert held["seconds"] >= 40 * held["batch_seconds"] > 0
    assert held["memory"] > held["written"] > 0
    assert run(line) == 0
    shown = capsys.readouterr().out
    for word in ("random:40", "attention_mask: nothing masked", "CPUExecutionProvider", "MB", "40", "about"):
        assert word in shown
    assert run([*line, "--moments", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] > held["written"]


def test_a_dry_run_runs_one_batch(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "counted.py"
    file.write_text(COUNTED)
    assert run(["measure", str(llama), "--data", f"{file}:batches", "--dry-run"]) == 0
    assert "unknown before they are read" in capsys.readouterr().out
    assert set((tmp_path / "made").read_text().split()) == {"0"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["counted.py", "made"]


def test_data_filled_inputs_and_progress_are_said_on_standard_error(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["measure", str(llama), "--data", "random:5", "--length", "6", "--shard", "2/2", "-o", str(tmp_path / "s")]
    assert run([*line, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["filled"] == {"attention_mask": "nothing masked"}
    lines = said.err.splitlines()
    assert lines[0].startswith("measuring: random:5 (random inputs, not data")
    assert lines[0].endswith("shard 2/2")
    assert "measuring: attention_mask is filled in: nothing masked" in lines
    assert lines[-1] == "measuring: 2 of 2"
    assert run([*line, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "in 2 batches, run by CPUExecutionProvider" in said.out


def test_an_output_is_asked_for(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", str(llama), "--data", "random:1"]) == 2
    assert "-o OUTPUT" in capsys.readouterr().err
    assert run(["measure", "--merge", str(llama), "--data", "random:1", "-o", "x"]) == 2


def test_statistics_know_what_they_are_of(llama: Path, tmp_path: Path) -> None:
    line = ["measure", str(llama), "--data", "random:6", "--length", "6", "--shard", "2/3", "-q"]
    assert run([*line, "-o", str(tmp_path / "s")]) == 0
    held = Statistics.read(tmp_path / "s")
    (portion,) = held.data
    assert (portion.shard, portion.shards, portion.batches) == (2, 3, 2)
    assert len(held.parent) == len(portion.source) == len(portion.fed) == 64
    assert held.settings["graphclone"]
