"""What people expect of every command: help with examples, --json, --quiet, no colour where none is wanted, pipes,
completion, and a Ctrl-C that cleans up."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphclone as gc
from graphclone import doctor, errors
from graphclone.cli import app as application
from graphclone.cli import options
from graphclone.cli.app import app, run
from graphclone.plan import BEST, PASSES
from graphclone.sizing.judges import GREEDY
from graphclone.statistics import depth, importance
from graphclone.workflow.schema import json_schema

ROOT = Path(__file__).parents[2]
WHERE = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def registered() -> tuple[str, ...]:
    """The names of all commands."""
    run(["--version"])  # commands register when they are first needed
    return tuple(sorted(str(row.name or row.callback.__name__) for row in app.registered_commands if row.callback))


@pytest.fixture(scope="module")
def llama(parent_file: Callable[..., Path]) -> Path:
    return parent_file("llama", exporter="torchscript")


@pytest.mark.parametrize("name", registered())
def test_every_command_keeps_the_conventions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(rf"graphclone {name}\b", shown.split("Examples:")[1])) >= 2
    for option in ("--json", "--quiet", "--help"):
        assert option in shown
    assert run([name, "--no-such-option"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"graphclone: .*--no-such-option.*\n", told.err)


def test_help_and_readme_say_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    words = [re.split("Exit codes: ", text)[1] for text in (capsys.readouterr().out, (ROOT / "README.md").read_text())]
    kinds = [errors.GraphCloneError, *errors.GraphCloneError.__subclasses__()]
    wanted = {0, *(kind.exit_code for kind in kinds)}
    for said in words:
        assert {int(code) for code in re.findall(r"\b(\d)\s+[a-z]", said.split(". ")[0])} == wanted
        assert all(
            str(code) in said for code in (application.INTERRUPTED, 128 + signal.SIGTERM, application.BROKEN_PIPE)
        )


def test_help_and_the_schema_name_every_way_of_choosing_and_correcting() -> None:
    described = json_schema()["$defs"]["Method"]["properties"]
    told = {
        "importance": (options.IMPORTANCES, described["importance"]["description"], importance.TABLE),
        "method": (help_of(options.Method), described["correction"]["description"], (BEST, *PASSES)),
        "depth": (help_of(options.Depth), described["depth"]["description"], (BEST, *depth.DEPTHS, GREEDY)),
    }
    for line, description, wanted in told.values():
        for said in (line, description):
            assert set(wanted) <= set(re.findall(r"[\w-]+", said))


def help_of(option: Any) -> str:
    """What --help says of an option."""
    (info,) = option.__metadata__
    return str(info.help)


SPEAKING = {  # commands on real input: their words
    "inspect": ("{model}",),
    "plan": ("{model}", "--layers", "1", "--importance", "first"),
    "measure": ("{model}", "--data", "random:2", "--length", "8", "-o", "{out}/stats"),
    "clone": ("{model}", "{out}/clone.onnx", "--layers", "1", "--data", "random:2", "--length", "8"),
    "check": ("{model}", "--max-params", "1B"),
    "bench": ("{model}", "{model}", "--lengths", "8", "--runs", "1", "--warmup", "0"),
    "run": ("{out}/recipe.yaml", "-o", "{out}/run"),
    "doctor": (),
}


@pytest.mark.parametrize("name", SPEAKING)
def test_json_is_one_line_and_quiet_is_quiet(
    name: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"parent: {llama}\ntarget: {{layers: 1}}\nmethod: {{importance: first}}\n")
    words = [word.format(model=llama, out=tmp_path) for word in SPEAKING[name]]
    assert run([name, *words, "--json", "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.count("\n") == 1
    assert isinstance(json.loads(told.out), dict)
    assert run(["inspect", str(llama)]) == 0
    assert not COLOUR.search(capsys.readouterr().out)


def on_a_terminal(*words: str, environment: dict[str, str]) -> str:
    """What a command prints where its output is a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "graphclone", *words], stdout=slave, stderr=slave, env=environment
    ) as held:
        os.close(slave)
        read = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            read += piece
        assert held.wait(60) == 0
    os.close(master)
    return read.decode()


def test_no_color(llama: Path, tmp_path: Path) -> None:
    assert run(["clone", str(llama), str(tmp_path / "c.onnx"), "--layers", "1", "--importance", "first"]) == 0
    words = ("verify", str(llama), str(tmp_path / "c.onnx"))
    plain = {name: value for name, value in WHERE.items() if name not in ("NO_COLOR", "FORCE_COLOR")} | {
        "TERM": "xterm-256color"
    }
    assert COLOUR.search(on_a_terminal(*words, environment=plain))
    assert not COLOUR.search(on_a_terminal(*words, environment={**plain, "NO_COLOR": "1"}))
    assert not COLOUR.search(on_a_terminal("clone", "--help", environment={**plain, "NO_COLOR": "1"}))


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "graphclone"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m graphclone "$@"\n')
    program.chmod(0o755)
    script = """
set -e
source <(_GRAPHCLONE_COMPLETE=source_bash graphclone)
for line in "$@"; do
  COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _graphclone_completion graphclone
  echo "${COMPREPLY[*]}"
done
"""
    where = {**WHERE, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-c", script, "bash", "graphclone ins", "graphclone clone --keep-b", "graphclone d"]
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == [["inspect"], ["--keep-blocks"], ["demo", "doctor"]]


def test_plans_and_recipes_come_through_pipes(llama: Path, tmp_path: Path) -> None:
    def piped(words: tuple[str, ...], given: str = "") -> str:
        command = [sys.executable, "-m", "graphclone", *words]
        return subprocess.run(
            command, env=WHERE, input=given, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    plan = piped(("plan", str(llama), "--layers", "1", "--importance", "first", "-o", "-"))
    piped(("clone", str(llama), "one.onnx", "--plan", "-"), plan)
    piped(("run", "-", "-o", "held"), f"parent: {llama}\ntarget: {{layers: 1}}\nmethod: {{importance: first}}\n")
    assert gc.load(tmp_path / "one.onnx").sha256 == gc.load(tmp_path / "held/clone/clone.onnx").sha256


KEPT = {"run.json", ".lock", "stats.partial", "statistics.safetensors.partial"}  # what the next run goes on from
INTERRUPTED = {
    "clone": ("{model}", "{out}/c.onnx", "--layers", "1", "--data", "random:100000"),
    "measure": ("{model}", "--data", "random:100000", "-o", "{out}/stats"),
    "bench": ("{model}", "{model}", "--runs", "100000", "--lengths", "8"),
    "run": ("{out}/recipe.yaml", "-o", "{out}/run"),
}


@pytest.mark.parametrize(
    ("name", "number"), [*((name, signal.SIGINT) for name in INTERRUPTED), ("clone", signal.SIGTERM)]
)
def test_ctrl_c_cleans_up(name: str, number: signal.Signals, llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"parent: {llama}\ndata: {{source: 'random:100000'}}\ntarget: {{layers: 1}}\n")
    words = [word.format(model=llama, out=tmp_path) for word in INTERRUPTED[name]]
    command = [sys.executable, "-m", "graphclone", name, *words]

    def listening() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background it is ignored

    with subprocess.Popen(command, env=WHERE, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as held:  # noqa: PLW1509
        assert held.stderr is not None
        while not re.match(r"measuring:|timing: \d|random:", held.stderr.readline()):
            assert held.poll() is None
        held.send_signal(number)
        assert held.wait(60) == 128 + number
        assert held.stderr.read().splitlines()[-1] == "graphclone: interrupted"
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()} - {"recipe.yaml"}
    assert left <= KEPT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ImportError", "RuntimeError"])
def test_ctrl_c_is_told_whatever_becomes_of_it(error: str, number: signal.Signals, tmp_path: Path) -> None:
    """Source run as a string, as named tuples and data classes run theirs; a library's own error in its place."""
    source = f"""
import os, signal
from graphclone.cli import app

signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored

@app.app.command()
def stopped() -> None:
    try:
        exec("os.kill(os.getpid(), {int(number)})")
    except KeyboardInterrupt:
        raise {error}

app.main()
"""
    (tmp_path / "interrupted.py").write_text(source)
    command = [sys.executable, "-m", "interrupted", "stopped"]
    ended = subprocess.run(command, env=WHERE, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 128 + number
    assert ended.stderr.splitlines()[-1] == "graphclone: interrupted"


def test_doctor_says_what_runs_where_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", "--quiet"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["versions"]["graphclone"] == gc.__version__
    runs = {row["what"]: row for row in held["runs"]}
    assert "ExecutionProvider" in runs["measure, verify, bench"]["found"]
    for row in held["features"]:
        assert (row["fix"] is None) == (row["found"] == "ready")
        assert row["fix"] is None or row["fix"].startswith("pip install")
    assert run(["doctor"]) == 0
    assert "What runs where" in capsys.readouterr().out


def test_doctor_speaks_of_a_library_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.examine()
    assert not found.well
    (broken,) = (row for row in found.runs if row.what == "measure, verify, bench")
    assert broken.fix == "pip install -U 'graphclone[cpu]'"
    assert "ONNX Runtime" in broken.found
