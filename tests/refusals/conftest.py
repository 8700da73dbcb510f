"""A command line that has to be refused, and the small Llama that it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import models
from graphclone.cli.app import run

USAGE, GRAPH, VERIFICATION, FILE = 2, 3, 4, 5


@dataclass(frozen=True)
class Refusal:
    """What a refused command line left behind."""

    code: int
    line: str


Refused = Callable[..., Refusal]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that has to fail without leaving a file in its folder ``tmp_path / "out"``."""
    out = tmp_path / "out"
    out.mkdir()

    def attempt(*arguments: str | Path) -> Refusal:
        code = run([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert list(out.iterdir()) == []
        assert "Traceback" not in said.err
        lines = [line for line in said.err.splitlines() if not line.startswith(("measuring", "training"))]
        assert len(lines) == 1, said.err
        assert lines[0].startswith("graphclone: ")
        return Refusal(code, lines[0])

    return attempt


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return models.cached("llama", exporter="torchscript")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return tmp_path / "out" / "clone.onnx"
