"""A parent, two of its clones, and their page, made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import graphclone as gc
from graphclone.report.facts import Facts
from graphclone.report.page import write
from graphclone.report.story import Given, tell
from tests.report.browser import Browser, chromium


@dataclass(frozen=True)
class Made:
    """Files of one family."""

    parent: Path
    clone: Path
    stats: Path
    training: Path


@pytest.fixture(scope="session")
def made(parent_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("family")
    file = parent_file("llama", exporter="dynamo")
    parent, rng = gc.load(file), np.random.default_rng(0)
    anatomy = gc.inspect(parent)
    feeds = [{"input_ids": rng.integers(0, 128, (2, 8)), "attention_mask": np.ones((2, 8), np.int64)} for _ in range(2)]
    stats = gc.measure(parent, feeds, anatomy=anatomy)
    plan = gc.plan(anatomy, stats, gc.Target(hidden="50%", ffn="50%", layers="50%"))
    found = Made(file, folder / "small.onnx", folder / "stats.safetensors", folder / "trained.json")
    gc.save(gc.clone(parent, plan, stats, anatomy=anatomy), found.clone)
    stats.save(found.stats)
    curve = {"losses": [5.0, 4.5, 4.1, 4.0], "held_out": [[0, 5.1], [2, 4.6], [4, 4.2]]}
    found.training.write_text(json.dumps(curve))
    return found


@pytest.fixture(scope="session")
def facts(made: Made) -> Facts:
    """One clone, timed, with two arms of training."""
    arms = (f"clone={made.training}", f"twin={made.training}")
    return tell(Given(made.parent, made.clone, made.stats, training=arms, runs=2, command=("graphclone", "report")))


@pytest.fixture(scope="session")
def family(facts: Facts) -> Facts:
    """Two clones of one parent, and one that failed."""
    (one,) = facts.clones
    two = replace(one, name="other", curves=(), sheets=tuple(replace(s, name="other") for s in one.sheets))
    maps = tuple(replace(m, cuts={**m.cuts, "other": next(iter(m.cuts.values()))}) if m.cuts else m for m in facts.maps)
    failed = type(one)("third", (), problem="plan: hidden 7 is not a multiple of 4")
    return replace(facts, clones=(one, two, failed), maps=maps)


@pytest.fixture(scope="session")
def page(facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(facts, path)
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
