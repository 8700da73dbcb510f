"""No command writes over what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphclone.cli.app import run

KEPT = "what was there before"
HALF = ("--layers", "2", "--importance", "first")
WRITERS = {  # the words of each, with IN for the file that it reads and is told to write
    "plan --data": ("plan", "MODEL", *HALF, "--data", "IN", "-o", "IN"),
    "plan --tokenizer": ("plan", "MODEL", *HALF, "--data", "a.txt", "--tokenizer", "IN", "-o", "IN"),
    "plan --vocab": ("plan", "MODEL", "--vocab", "IN", "-o", "IN"),
    "plan --stats": ("plan", "MODEL", *HALF, "--stats", "IN", "-o", "IN"),
    "clone --data": ("clone", "MODEL", "IN", *HALF, "--data", "IN"),
    "clone --data function": ("clone", "MODEL", "IN", *HALF, "--data", "IN:batches"),
    "clone --plan": ("clone", "MODEL", "IN", "--plan", "IN"),
    "clone --images": ("clone", "MODEL", "IN", *HALF, "--data", "photos", "--images", "IN"),
    "clone --vocab": ("clone", "MODEL", "IN", "--vocab", "IN"),
    "measure --data": ("measure", "MODEL", "--data", "IN", "-o", "IN"),
    "measure --tokenizer": ("measure", "MODEL", "--data", "a.txt", "--tokenizer", "IN", "-o", "IN"),
    "measure --images": ("measure", "MODEL", "--data", "photos", "--images", "IN", "-o", "IN"),
    "measure --merge": ("measure", "--merge", "IN", "-o", "IN"),
    "train --data": ("train", "MODEL", "--data", "IN", "-o", "IN"),
    "train --tokenizer": ("train", "MODEL", "--data", "a.txt", "--tokenizer", "IN", "-o", "IN"),
    "train --images": ("train", "MODEL", "--data", "photos", "--images", "IN", "-o", "IN"),
    "train --task": ("train", "MODEL", "--data", "a.txt", "--task", "IN:loss", "-o", "IN"),
    "pack": ("pack", "MODEL", "IN", "-o", "IN"),
    "check": ("check", "MODEL", "--min-score", "IN:score=1", "--junit", "IN"),
    "report --data": ("report", "MODEL", "MODEL", "--data", "IN", "-o", "IN"),
    "report --training": ("report", "MODEL", "MODEL", "--training", "arm=IN", "-o", "IN"),
}


@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_what_is_read_is_not_written(
    words: tuple[str, ...], parent_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text(KEPT)
    model = str(parent_file("llama", exporter="dynamo"))
    given = [word.replace("MODEL", model).replace("IN", str(own)) for word in words]
    assert run(given) == 2
    assert f"{own}: is also an input; write to another path" in capsys.readouterr().err
    assert own.read_text() == KEPT
    assert list(tmp_path.iterdir()) == [own]


def test_nor_is_a_trimmed_vocabularys_tokenizer_written_over_the_one_it_is_made_of(
    parent_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = tmp_path / "words.tokenizer.json"
    read.write_text(KEPT)
    model, out = str(parent_file("llama", exporter="dynamo")), str(tmp_path / "words.onnx")
    assert run(["clone", model, out, "--vocab", "python-docs", "--tokenizer", str(read)]) == 2
    assert f"{read}: is also an input" in capsys.readouterr().err
    assert read.read_text() == KEPT
