"""What the pass of Olive does between two files, without Olive: every run is where, and as, it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphclone import pipeline
from graphclone.errors import InvalidTarget
from graphclone.olive.making import Asked, make
from graphclone.olive.options import OPTIONS


def asked(**given: Any) -> Asked:
    options = {name: option.default for name, option in OPTIONS.items()} | given
    return Asked(options, None, "cpu", lambda text: None)


@pytest.fixture
def bert(parent_file: Callable[..., Path], tmp_path: Path) -> Path:
    ids = np.random.default_rng(0).integers(5, 60, (4, 8))
    np.savez(tmp_path / "data.npz", input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    return parent_file("bert", exporter="torchscript")


def test_both_passes_over_the_data_take_the_threads_asked_for(bert, tmp_path, monkeypatch):
    taken = []

    def noted(name: str) -> Callable[..., Any]:
        known = getattr(pipeline, name)

        def call(*given: Any, **more: Any) -> Any:
            taken.append((name, more["provider"], more.get("threads")))
            return known(*given, **more)

        return call

    for name in ("measure", "measure_kept"):
        monkeypatch.setattr(pipeline, name, noted(name))
    make(bert, tmp_path / "out.onnx", asked(hidden="50%", data=str(tmp_path / "data.npz"), threads=1))
    assert taken == [("measure", "cpu", 1), ("measure_kept", "cpu", 1)]


def test_a_latency_budget_is_timed_where_the_pass_runs(bert, tmp_path, monkeypatch):
    timed = []

    def search(*given: Any, clock: Any = None, **more: Any) -> None:
        timed.append((clock.provider, clock.threads))
        raise InvalidTarget("enough")

    monkeypatch.setattr(pipeline, "search", search)
    with pytest.raises(InvalidTarget, match="enough"):
        make(bert, tmp_path / "out.onnx", asked(latency="90%", importance="first", method="none", threads=1))
    assert timed == [("cpu", 1)]
