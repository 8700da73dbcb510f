"""The tutorials and the page on training are executed: every file they show is written, every command runs and prints
what stands there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import models
from tests.test_readme import words
from tools import readme

DOCS = readme.README.parent / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = [*TUTORIALS, DOCS / "training.md"]


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH on which graphclone and python are those under test."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, arguments in (("graphclone", "-m graphclone"), ("python", "")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        file.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_as_written(page: Path, programs: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    text = page.read_text(encoding="utf-8")
    readme.write_files(text, folder)
    where = {**os.environ, "PATH": programs, "PYTHONPATH": str(readme.README.parent)}
    for step in readme.steps(text):
        if step.file or _built(step.command, folder):
            continue
        command = step.command if step.language == "console" else f"python -c {shlex.quote(step.command)}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder, env=where, check=False)
        assert done.returncode == 0, f"{step.command}\n{done.stderr}"
        if step.language == "console":
            assert words(done.stdout) == words(step.output), step.command


def _built(command: str, folder: Path) -> bool:
    """A parent that a recipe writes: recipes have tests of their own, and what they write is kept between runs."""
    wanted = shlex.split(command) if command.startswith("python -m models ") else []
    if not wanted:
        return False
    built = models.cached(wanted[3])
    (folder / wanted[5]).symlink_to(built)
    tokenizer = models.tokenizer_beside(built)
    if tokenizer.is_file():
        shutil.copy(tokenizer, models.tokenizer_beside(folder / wanted[5]))
    return True


def test_every_tutorial_is_there() -> None:
    assert [page.stem for page in TUTORIALS] == ["embedding", "language-model", "operator", "vision", "your-own-onnx"]
    for page in PAGES:
        shown = [step for step in readme.steps(page.read_text(encoding="utf-8")) if step.language == "console"]
        assert len(shown) >= 2


def test_files_of_a_page_are_read_apart_from_its_commands() -> None:
    blocks = ('yaml title="a.yaml"\nx: 1', 'python title="b.py"\nprint(1)', "yaml\ny: 2", "python\n2")
    text = "".join(f"```{block}\n```\n" for block in blocks)
    found = [(step.language, step.file, step.command) for step in readme.steps(text)]
    assert found == [("file", "a.yaml", "x: 1\n"), ("file", "b.py", "print(1)\n"), ("python", None, "2\n")]
