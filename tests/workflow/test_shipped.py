"""The recipes in models/recipes, each at a small setting, on the real parents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from graphclone.cli.app import run
from graphclone.workflow.record import Record

RECIPES = Path(__file__).parents[2] / "models/recipes"
SMALL = (
    "data.limit=2",
    "data.length=16",
    "data.batch_size=1",
    "bench.runs=1",
    "bench.warmup=1",
    "check.max_latency_ratio=null",
)
TRAINED = (
    "training.steps=2",
    "training.evaluations=1",
    "training.held_out=1",
    "training.data=null",
    "bench.lengths=[16]",
)
ROWS = {
    "smollm2": (*TRAINED, "targets.half=null", "outputs.torch=false"),
    "minilm": (*TRAINED, "targets.narrow=null"),
    "vit": ("targets.narrow=null",),
}


def test_every_recipe_has_a_row() -> None:
    assert {file.stem for file in RECIPES.glob("*.yaml")} == ROWS.keys()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    monkeypatch.setenv("PARENT", str(models.cached(name)))
    monkeypatch.setenv("PHOTOS", str(tmp_path))
    changes = [word for change in (*SMALL, *ROWS[name]) for word in ("--set", change)]
    assert run(["run", str(RECIPES / f"{name}.yaml"), "-o", str(tmp_path / "run"), *changes]) == 0
    record = Record.read(tmp_path / "run")
    assert record is not None
    assert {row.state for row in record.rows} == {"done"}
    assert {"measure", "plan", "clone", "verify", "bench", "check"} <= {row.step for row in record.rows}
