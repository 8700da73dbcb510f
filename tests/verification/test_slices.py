"""The examiner recognises a right clone, and each way of being wrong is a failed check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphclone.graph import Model
from graphclone.verification import claims, slices
from graphclone.verification import weights as examined
from graphclone.verification.report import Check, Verdict


def examine(parent: Model, clone: Model) -> dict[str, Check]:
    return {check.name: check for check in slices.examine(parent, clone, claims.read(clone))}


def test_a_right_clone_passes(parent: Model, make_clone: Callable[..., Model]) -> None:
    assert all(check.passed for check in examine(parent, make_clone()).values())


def test_scaled_slices_are_recomputed_in_float32(parent: Model, make_clone: Callable[..., Model]) -> None:
    def scale(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["down"] = weights["down"] * np.float32(1.1)
        metadata["slices"]["down"]["scale"] = 1.1

    assert all(check.passed for check in examine(parent, make_clone(change=scale)).values())


def nudge_a_weight(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    weights["down"][0, 0] = np.nextafter(weights["down"][0, 0], np.float32(9))


def claim_other_neurons(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["slices"]["up"]["take"][1] = [0, 2, 5, 7]


def claim_a_weight_as_constant(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["slices"]["up"] = {"shape_constant": True}


def claim_nothing(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    del metadata["slices"]["up"]


def claim_an_unknown_parent(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["slices"]["up"]["parent"] = "elsewhere"


def claim_out_of_range(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["slices"]["up_bias"]["take"] = [[1, 2, 5, 99]]


def claim_too_few_axes(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    metadata["slices"]["down"]["take"] = [[1, 2, 5, 7]]


@pytest.mark.parametrize(
    "change",
    [
        nudge_a_weight,
        claim_other_neurons,
        claim_a_weight_as_constant,
        claim_nothing,
        claim_an_unknown_parent,
        claim_out_of_range,
        claim_too_few_axes,
    ],
)
def test_a_wrong_weight_or_claim_fails(parent: Model, make_clone: Callable[..., Model], change: Any) -> None:
    assert examine(parent, make_clone(change=change))["weights are the parent's slices"].verdict is Verdict.FAILED


def replan(metadata: dict[str, Any], kept: list[int]) -> None:
    metadata["plan"] = json.dumps(json.loads(metadata["plan"]) | {"keep": {"block.0.ffn": kept}})


def test_slices_that_the_plan_does_not_ask_for_fail(parent: Model, make_clone: Callable[..., Model]) -> None:
    def other_plan(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        replan(metadata, [0, 1, 5, 7])

    checks = examine(parent, make_clone(change=other_plan))
    assert checks["slices follow the plan"].verdict is Verdict.FAILED
    assert checks["the plan is carried out"].verdict is Verdict.FAILED
    assert checks["weights are the parent's slices"].passed


@pytest.mark.parametrize(
    ("groups", "kept", "verdict"),
    [
        ({"block.0.ffn": 8}, range(4), Verdict.FAILED),  # the first 4 of 8, and nothing is cut
        ({"another": 4}, range(4), Verdict.FAILED),
        ({"block.0.ffn": 8}, range(8), Verdict.PASSED),
        ({}, range(4), Verdict.PASSED),  # written before clones said how many there were
    ],
)
def test_an_uncut_parent_is_no_clone_that_keeps_the_first(
    parent: Model, make_clone: Callable[..., Model], groups: dict[str, int], kept: range, verdict: Verdict
) -> None:
    def claim(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        replan(metadata, list(kept))
        metadata["groups"] = groups

    checks = examine(parent, make_clone(tuple(range(8)), change=claim))
    assert checks["the plan is carried out"].verdict is verdict


def test_trained_weights_are_not_called_slices(parent: Model, make_clone: Callable[..., Model]) -> None:
    def train(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        nudge_a_weight(weights, metadata)
        metadata["trained"] = "true"

    checks = examine(parent, make_clone(change=train))
    assert checks["weights are the parent's slices"].verdict is Verdict.NOT_APPLICABLE


HEADS = np.array([0, 2])  # of 4 heads, each 3 wide
NEURONS = np.array([1, 2, 5])


@pytest.mark.parametrize(
    ("indices", "size", "explained"),
    [
        (NEURONS, 8, True),
        ((HEADS[:, None] * 3 + np.arange(3)).ravel(), 12, True),  # whole heads
        ((np.arange(3)[:, None] * 4 + HEADS).ravel(), 12, True),  # the same neurons inside each head
        ((np.arange(3)[:, None, None] * 12 + HEADS[:, None] * 3 + np.arange(3)).ravel(), 36, True),  # packed Q|K|V
        ((HEADS[:, None] * 8 + NEURONS).ravel(), 32, True),  # heads and neurons inside
        (np.concatenate([HEADS, 4 + np.arange(2), 6 + np.arange(2)]), 8, True),  # unequal parts: Q cut, K and V whole
        (np.concatenate([HEADS, [5, 6]]), 7, True),  # a prime number of heads: Q cut of 5, K and V whole
        ((np.concatenate([HEADS, [5, 6]])[:, None] * 8 + np.arange(8)).ravel(), 56, True),  # the same, each 8 wide
        (np.concatenate([HEADS, [4, 6]]), 7, False),
        (np.concatenate([NEURONS[:2], [6]]), 7, False),
        (np.array([0, 1, 2]), 8, False),
        ((HEADS[:, None] * 3 + np.arange(2)).ravel(), 12, False),
        (NEURONS[::-1], 8, False),
    ],
)
def test_axes_are_explained_by_kept_sets(indices: np.ndarray[Any, Any], size: int, explained: bool) -> None:
    kept = frozenset({HEADS.tobytes(), NEURONS.tobytes()})
    assert (slices.factors(indices, size, kept, {}) is not None) is explained


@pytest.mark.parametrize("at_once", [1, 40, 1 << 22])
@pytest.mark.parametrize("place", [0, -1])
def test_a_bit_is_found_wherever_it_lies(
    parent: Model, make_clone: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, at_once: int, place: int
) -> None:
    monkeypatch.setattr(examined, "AT_ONCE", at_once)
    assert all(check.passed for check in examine(parent, make_clone()).values())

    def flip(weights: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
        weights["down"] = weights["down"].copy()
        weights["down"].reshape(-1).view(np.uint8)[place] ^= 1

    (failed,) = [check for check in examine(parent, make_clone(change=flip)).values() if not check.passed]
    assert "1 bytes of" in failed.detail
