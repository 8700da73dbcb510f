"""What --json prints: one line that every JSON reader takes, and nothing that others print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphclone import strict_json
from graphclone.cli.app import run
from graphclone.report.curves import curve

NOISY = """
import sys

import numpy as np

print("imported")


def batches():
    print("reading")
    yield {"input_ids": np.ones((2, 8), np.int64)}


def score(path):
    print("scoring")
    return 2.0


def loss(outputs, batch):
    print("losing")
    return outputs["logits"].square().mean() * (1 if outputs["logits"].requires_grad else float("inf"))
"""


@pytest.fixture
def llama(parent_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("noisy.py").write_text(NOISY)
    return str(parent_file("llama", exporter="dynamo"))


def strict(text: str) -> dict[str, Any]:
    """One line, read by a reader that has no word for infinity."""

    def refused(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    assert text.count("\n") == 1
    held = json.loads(text, parse_constant=refused)
    assert isinstance(held, dict)
    return held


SPEAKERS = {
    "measure": (("measure", "MODEL", "--data", "noisy.py:batches", "-o", "stats"), {"imported", "reading"}),
    "check": (("check", "MODEL", "--min-score", "noisy.py:score=1"), {"imported", "scoring"}),
    "train": (
        ("train", "MODEL", "--task", "noisy:loss", "--data", "random:3", "--steps", "1", "--held-out", "0", "-o", "t"),
        {"losing"},
    ),
}


@pytest.mark.parametrize(("words", "said"), SPEAKERS.values(), ids=SPEAKERS)
def test_what_a_users_function_prints_goes_to_standard_error(
    words: tuple[str, ...], said: set[str], llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [word.replace("MODEL", llama) for word in words]
    assert run([*asked, "--json"]) == 0
    told = capsys.readouterr()
    strict(told.out)
    assert said <= set(told.err.splitlines())
    assert run(asked) == 0
    assert said - {"imported"} <= set(capsys.readouterr().out.splitlines())


def test_what_is_no_number_is_a_word(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["clone", llama, "clone.onnx", "--layers", "2", "--importance", "first", "--quiet"]) == 0
    proto = onnx.load("clone.onnx")
    gain = next(t for t in proto.graph.initializer if t.name.endswith("input_layernorm.weight"))
    gain.CopyFrom(onnx.numpy_helper.from_array(np.full_like(onnx.numpy_helper.to_array(gain), np.nan), gain.name))
    onnx.save(proto, "clone.onnx")
    capsys.readouterr()
    assert run(["verify", llama, "clone.onnx", "--json"]) == 4
    values = [check["value"] for check in strict(capsys.readouterr().out)["checks"]]
    assert {value for value in values if isinstance(value, str)} <= {"inf", "nan"}
    assert any(isinstance(value, str) for value in values)


def test_numbers_come_back_as_they_were() -> None:
    held = {"losses": [1.5, float("inf")], "held_out": [(0, float("nan")), (1, -float("inf"))], "steps": 2}
    told = strict(strict_json.dumps(held) + "\n")
    assert told == {"losses": [1.5, "inf"], "held_out": [[0, "nan"], [1, "-inf"]], "steps": 2}
    read = curve("one", told)
    assert read.losses == [1.5, float("inf")]
    assert np.isnan(read.held_out[0][1])
    assert read.held_out[1] == (1, -float("inf"))
