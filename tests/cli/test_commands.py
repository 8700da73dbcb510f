"""The commands as people type them, on a seeded parent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import graphclone as gc
from graphclone.cli.app import PANEL_OF, app, run

SMALL = ("--hidden", "32", "--heads", "4", "--kv-heads", "2", "--ffn", "50%", "--layers", "2")


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="dynamo")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "graphclone", *map(str, arguments)]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"graphclone {gc.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from graphclone.cli.app import run; run(['clone', '--help'])\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'numpy', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_whole_way(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats, plan, one, two = (tmp_path / name for name in ("s.safetensors", "p.json", "one.onnx", "two.onnx"))

    def asked(*arguments: str | Path) -> dict[str, object]:
        assert run([*map(str, arguments), "--json"]) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        held = json.loads(out)
        assert isinstance(held, dict)
        return held

    assert asked("inspect", llama)["parameters"] == gc.inspect(gc.load(llama)).parameters
    asked("measure", llama, "--data", "random:3", "-o", stats)
    asked("plan", llama, "--stats", stats, *SMALL, "-o", plan)
    asked("clone", llama, one, "--plan", plan, "--stats", stats)
    made = asked("clone", llama, two, *SMALL, "--stats", stats)
    assert one.read_bytes() == two.read_bytes()
    assert made["clone"] == {
        "parameters": gc.inspect(gc.load(two)).parameters,
        "stacks": [{"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 80}],
    }
    assert asked("verify", llama, two)["passed"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (stats, plan, one, two))


def test_tables_are_printed_without_colour_in_a_pipe(llama: Path, tmp_path: Path) -> None:
    sizes = "stack   hidden  layers  heads  kv_heads  head_dim  ffn  norms"
    kept = "neurons   groups  found  kept  dropped"
    for arguments, head in ((("inspect", llama), sizes), (("plan", llama, *SMALL, "--importance", "first"), kept)):
        done = subprocess.run(command(*arguments), capture_output=True, text=True, check=True)
        assert "\x1b" not in done.stdout
        assert head in map(str.rstrip, done.stdout.splitlines())
        assert done.stderr == ""


def test_measured_shards_merge(llama: Path, tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for seed, part in enumerate(parts):
        assert run(["measure", str(llama), "--data", "random:2", "--seed", str(seed), "-o", str(part)]) == 0
    both = tmp_path / "both"
    assert run(["measure", "--merge", *map(str, parts), "-o", str(both)]) == 0
    counts = [gc.Statistics.read(path).count for path in (*parts, both)]
    assert counts[2] == counts[0] + counts[1] > 0


def test_a_clone_that_was_tampered_with_fails_verification(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clone.onnx"
    assert run(["clone", str(llama), str(out), "--ffn", "50%", "--importance", "first"]) == 0
    assert run(["verify", str(llama), str(out)]) == 0
    made = gc.load(out)
    name, array = max(made.constants().items(), key=lambda item: item[1].nbytes)
    made.graph.tensors()[name].values = array + 1
    gc.save(made, out)
    capsys.readouterr()
    assert run(["verify", str(llama), str(out)]) == 4
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["check", "value", "tolerance", "verdict", "detail"]
    (wrong,) = [row for row in rows if row.startswith("weights are the parent's slices")]
    assert " failed " in wrong
    assert sum(" passed " in row for row in rows) > 5
    assert run(["verify", str(llama), str(out), "--json"]) == 4
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["weights are the parent's slices"]["value"] > checks["weights are the parent's slices"]["tolerance"]


def test_a_reader_that_leaves_early_is_no_error(llama: Path) -> None:
    with subprocess.Popen(command("inspect", llama, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as held:
        assert held.stdout is not None
        assert held.stderr is not None
        held.stdout.close()
        assert held.stderr.read() == b""
        assert held.wait(60) == 141


def test_a_budget_instead_of_sizes(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, stats = tmp_path / "small.onnx", tmp_path / "stats.safetensors"
    whole = gc.inspect(gc.load(llama)).parameters
    given = ["clone", str(llama), str(out), "--params", "40%", "--data", "random:6", "--length", "16", "--json"]
    assert run(given) == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert 0.3 * whole < made["clone"]["parameters"] <= 0.4 * whole
    assert made["clone"]["parameters"] == gc.inspect(gc.load(out)).parameters
    assert "Shapes within the budget, best loss first" in shown.err
    assert run(["clone", str(llama), str(out), "--params", "40%", "--hidden", "32", "--data", "random:1"]) == 2
    assert run(["clone", str(llama), str(out), "--params", "40%", "--data", "random:1", "--plan", str(stats)]) == 2


def test_greedy_depth(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shallow.onnx"
    given = ["clone", str(llama), str(out), "--layers", "2", "--depth", "greedy", "--length", "16", "--json"]
    assert run([*given, "--data", "random:6"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["clone"]["stacks"][0]["layers"] == 2
    assert "goes: loss" in shown.err
    assert run([*given, "--importance", "first"]) == 2


def test_every_command_has_its_place_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    places = [told.index(f"│ {name} ") for name in PANEL_OF]
    assert places == sorted(places)
    registered = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert registered == set(PANEL_OF)
