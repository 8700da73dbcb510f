"""What the demo measures and draws."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphclone as gc
from graphclone.demo import evaluation, story
from graphclone.demo.results import Arm, Results, crossing


def test_crossing_interpolates() -> None:
    assert crossing([0, 10, 20], [9.0, 6.0, 4.0], 5.0) == 15
    assert crossing([0, 10], [3.0, 2.0], 5.0) == 0
    assert crossing([0, 10], [9.0, 6.0], 5.0) is None


def test_cross_entropy_is_minus_log_softmax(rng: np.random.Generator) -> None:
    logits, ids = rng.standard_normal((2, 3, 7)), rng.integers(0, 7, (2, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [[-np.log(probabilities[b, t, ids[b, t]]) for t in range(3)] for b in range(2)]
    np.testing.assert_allclose(evaluation.cross_entropy(logits + 50, ids), expected, rtol=1e-12)
    assert not np.allclose(evaluation.cross_entropy(logits, (ids + 1) % 7), expected)


def test_loss_in_runtime_is_that_of_pytorch(parent_file: Callable[..., Path]) -> None:
    from graphclone.pytorch.training import evaluate

    model = gc.load(parent_file("llama", exporter="dynamo"))
    batches = list(gc.open_source("random:2", model, length=12, batch_size=3))
    assert evaluation.loss(model, batches) == pytest.approx(evaluate(gc.to_torch(model), batches), rel=1e-5)


def arm(name: str, losses: tuple[float, ...]) -> Arm:
    return Arm(name, 1000, 4000, 0.001, losses[0], losses[-1], 1e-3, tuple(range(0, 10 * len(losses), 10)), losses)


def test_results_are_saved_as_json_and_picture(tmp_path: Path) -> None:
    found = Results(
        arm("p", (3.0,)), arm("clone", (14.0, 6.0, 5.0)), arm("twin", (10.8, 7.0, 6.5)), 5.0, 1024, {"a": 1.0}
    )
    found.save(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["reached"] == found.reached == 9
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "passes its twin's final loss at step 9 of 20" in found.sentences()[0]


@pytest.mark.real
@pytest.mark.slow
def test_the_quick_demo(tmp_path: Path) -> None:
    said: list[str] = []
    found, report = story.run(story.quick(story.Settings(tmp_path)), said.append)
    assert report.passed
    assert found.loss_in_runtime == pytest.approx(found.clone.loss_after, rel=1e-4)
    assert found.clone.parameters == found.twin.parameters < found.parent.parameters / 9
    assert {p.name for p in tmp_path.iterdir()} == {"clone.onnx", "trained.onnx", "results.json", "loss.png"}
    trained = gc.load(tmp_path / "trained.onnx")
    assert trained.metadata["graphclone.trained"] == "true"


@pytest.mark.real
def test_the_recipes_of_a_checkout_are_found_from_any_folder(tmp_path: Path) -> None:
    code = "from graphclone.demo.story import _parent; print(_parent(print)[0].name)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["smollm2.onnx"], done.stderr
