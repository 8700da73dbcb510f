"""The whole examination on hand-made files, and that each comparer can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph, saving
from graphclone.errors import VerificationFailed
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.verification import Check, Report, Verdict, claims, latency, oracle, runtime, verify
from graphclone.verification.sessions import open_session
from graphclone.verification.zeroed import difference, zeroed

Change = Callable[[dict[str, np.ndarray[Any, Any]], dict[str, Any]], None]


def verdicts(report: Report) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in report.checks}


def test_a_right_clone_passes_every_check(parent: Model, make_clone: Callable[..., Model]) -> None:
    report = verify(parent, make_clone())
    assert set(verdicts(report).values()) == {Verdict.PASSED}
    assert len(report.checks) == 15
    assert report.summary == "15 checks passed"
    report.raise_if_failed()


def test_a_file_on_disk_is_examined_as_well(parent: Model, make_clone: Callable[..., Model], tmp_path: Path) -> None:
    saving.save(make_clone(), tmp_path / "clone.onnx")
    report = verify(parent, graph.load(tmp_path / "clone.onnx"))
    assert report.passed


def test_a_model_that_no_graphclone_wrote_is_no_clone(parent: Model) -> None:
    report = verify(parent, parent)
    assert verdicts(report)["metadata"] is Verdict.FAILED
    with pytest.raises(VerificationFailed, match="no metadata graphclone"):
        report.raise_if_failed()


@pytest.mark.parametrize("key", ["slices", "plan"])
@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"up": 1}', '{"up": {"parent": "up"}}', '{"up": {"take": [[[0]]]}}', "{"]
)
def test_malformed_metadata_is_a_failed_check(
    parent: Model, make_clone: Callable[..., Model], key: str, text: str
) -> None:
    clone = make_clone()
    clone.metadata[f"graphclone.{key}"] = text
    assert not verify(parent, clone).passed


@pytest.mark.parametrize("change", [{"method": "another"}, {"format": 2}, {"keep": {"block.0.ffn": [1, 1]}}])
def test_a_plan_that_cannot_be_is_a_failed_check(
    parent: Model, make_clone: Callable[..., Model], change: dict[str, Any]
) -> None:
    clone = make_clone()
    clone.metadata["graphclone.plan"] = json.dumps(json.loads(clone.metadata["graphclone.plan"]) | change)
    assert verdicts(verify(parent, clone))["metadata"] is Verdict.FAILED


def test_another_parent_and_another_plan_are_noticed(parent: Model, make_clone: Callable[..., Model]) -> None:
    clone = make_clone()
    other = Plan(parent.sha256, {"block.0.ffn": (0, 1, 5, 7)}, method="none")
    assert verdicts(verify(parent, clone, other))["metadata"] is Verdict.FAILED
    clone.metadata["graphclone.parent_sha256"] = "0" * 64
    assert verdicts(verify(parent, clone))["metadata"] is Verdict.FAILED


def test_the_zeroed_parent_differs_from_a_clone_with_another_neuron(
    parent: Model, make_clone: Callable[..., Model]
) -> None:
    def claim_other_neurons(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        for name, axis in (("up", 1), ("up_bias", 0), ("down", 0)):
            metadata["slices"][name]["take"][axis] = [0, 2, 5, 7]

    clone = make_clone(change=claim_other_neurons)
    found = oracle.examine(parent, clone, claims.read(clone))
    assert found.verdict is Verdict.FAILED
    assert found.value is not None
    assert found.value > 100 * (found.tolerance or 0)


def repeat_a_block(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["plan"] = metadata["plan"].replace('"repeat_blocks": {}', '"repeat_blocks": {"model": [1]}')


def test_the_oracle_says_where_it_does_not_apply(parent: Model, make_clone: Callable[..., Model]) -> None:
    clone = make_clone(change=repeat_a_block)
    found = oracle.examine(parent, clone, claims.read(clone))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert not found.passed


def test_a_residual_that_was_not_cut_as_claimed_is_seen(parent: Model, make_clone: Callable[..., Model]) -> None:
    def narrow(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        metadata["slices"]["head"]["take"][0] = [0, 1]

    clone = make_clone(change=narrow)
    assert oracle.examine(parent, clone, claims.read(clone)).verdict is Verdict.FAILED


def test_one_weight_scaled_in_two_ways_in_unknown_places_is_not_guessed(
    parent: Model, make_clone: Callable[..., Model]
) -> None:
    def scale(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["again"] = weights["down"] * np.float32(2)
        metadata["slices"]["again"] = metadata["slices"]["down"] | {"scale": 2.0}

    clone = make_clone(change=scale)
    for node in clone.graph.nodes:
        if node.name == "down_matmul":
            node.op = "FusedMatMul"  # no longer the parent's node
    clone.graph.nodes[0].inputs.append(gs.Constant("again", np.zeros((4, 6), np.float32)))
    found = oracle.examine(parent, clone, claims.read(clone))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "scaled differently by its several uses" in found.detail


def test_the_oracle_scales_as_the_clone_does(parent: Model, make_clone: Callable[..., Model]) -> None:
    def scale(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["down"] = weights["down"] * np.float32(1.5)
        metadata["slices"]["down"]["scale"] = 1.5

    clone = make_clone(change=scale)
    assert oracle.examine(parent, clone, claims.read(clone)).passed
    assert not oracle.examine(parent, make_clone(), claims.read(clone)).passed


def test_zeroing_leaves_the_parent_alone(parent: Model, make_clone: Callable[..., Model]) -> None:
    before = {name: array.copy() for name, array in parent.constants().items()}
    clone = make_clone(kept=(1, 2))
    made = zeroed(parent, clone, claims.read(clone)).constants()
    (down,) = (array for array in made.values() if array.shape == parent.constants()["down"].shape and not array.all())
    assert np.count_nonzero(down.any(axis=1)) == 2
    assert all(np.array_equal(before[name], array) for name, array in parent.constants().items())


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.array([1.0, 2.0]), 0.0),
        (np.array([1.0, 2.5]), 0.25),
        (np.array([1.0, np.nan]), np.inf),
        (np.array([1.0, 2.0, 3.0]), np.inf),
    ],
)
def test_the_comparer_sees_a_perturbed_output(actual: np.ndarray[Any, Any], expected: float) -> None:
    assert difference({"y": np.array([1.0, 2.0])}, {"y": actual})[0] == expected


def test_outputs_that_are_not_finite_or_not_as_declared_fail(parent: Model, make_clone: Callable[..., Model]) -> None:
    def poison(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["down"][:] = np.nan

    assert [c.verdict for c in runtime.examine(make_clone(change=poison))][1:] == [Verdict.FAILED] * 3
    parent.graph.outputs[0].shape = ["batch", "sequence", 12]
    assert any(c.verdict is Verdict.FAILED for c in runtime.examine(parent))
    parent.graph.outputs[0].shape = ["sequence", "batch", 11]
    assert any(c.verdict is Verdict.FAILED for c in runtime.examine(parent))


def test_a_graph_that_runtime_refuses_is_a_failed_check(make_clone: Callable[..., Model]) -> None:
    def narrow(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["down"] = weights["down"][:, :5]

    checks = runtime.examine(make_clone(change=narrow))
    assert checks[-1].verdict is Verdict.FAILED
    assert "\n" not in checks[-1].detail


def test_nan_never_passes() -> None:
    assert not Check.measured("x", float("nan"), 1.0, "").passed
    assert not Report((Check.skipped("x", "no reason"),)).passed


def test_latency_is_a_time(parent: Model) -> None:
    ids = np.zeros((1, 4), dtype=np.int64)
    assert 0 < latency(parent, {"input_ids": ids}, runs=3) < 1
    assert open_session(parent).run({"input_ids": ids})["logits"].shape == (1, 4, 11)
