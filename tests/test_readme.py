"""README.md is executed: every command of it runs, and prints what it says there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import models
from tools import readme

TEXT = readme.README.read_text()
STEPS = readme.steps(TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def words(output: str) -> str:
    """Without numbers, bars and spacing: times, losses and digests differ between machines, as processors do."""
    output = re.sub("[▁▂▃▄▅▆▇█]+", "", output)
    output = re.sub(r"(of ONNX Runtime [\d.]+), .+, (?=\d+ cores)", r"\1, processor, ", output)
    return " ".join(re.sub(r"\b[0-9a-f]{12,}\b|[-+]?\d[\d,.]*(e[-+]\d+)?", "N", output).split())


@pytest.mark.parametrize("step", [s for s in STEPS if s.language == "bash"], ids=lambda step: step.command)
def test_make_commands_are_targets_of_the_makefile(step: readme.Step) -> None:
    command, where = [*shlex.split(step.command), "-n"], readme.README.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("step", [s for s in STEPS if s.language != "bash"], ids=lambda s: s.command.splitlines()[0])
def test_commands_run_and_print_what_is_shown(step: readme.Step, folder: Path) -> None:
    command = shlex.split(step.command) if step.language == "console" else ["python", "-c", step.command]
    if command[:3] == ["python", "-m", "models"]:  # recipes have tests of their own; the file is kept between runs
        built = models.cached(command[3])
        (folder / command[5]).symlink_to(built)
        shutil.copy(models.tokenizer_beside(built), models.tokenizer_beside(folder / command[5]))
        return
    program = [sys.executable, *command[1:]] if command[0] == "python" else [sys.executable, "-m", *command]
    where = {**os.environ, "PYTHONPATH": str(readme.README.parent)}
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env=where, check=False)
    assert done.returncode == 0, done.stderr
    if step.language == "console":
        assert step.output, "README.md shows no output: python -m tools.readme FOLDER writes it"
        assert words(done.stdout) == words(step.output)


def test_steps_are_read_and_refreshed() -> None:
    text = "a\n```console\n$ one --x\nold\n$ two\n```\nb\n```bash\nmake demo     # what it does\n```\n"
    assert [(s.command, s.output) for s in readme.steps(text)] == [("one --x", "old\n"), ("two", ""), ("make demo", "")]
    fresh = readme.refreshed(text, lambda command: f"new {command}\n")
    assert fresh.startswith("a\n```console\n$ one --x\nnew one --x\n$ two\nnew two\n```\nb\n```bash\nmake demo")
