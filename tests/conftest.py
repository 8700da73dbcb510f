"""Parents for every test, built once and kept between runs, and seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import models
from models.recipe import EXPORTERS

SEEDED = tuple(name for name, row in models.TABLE.items() if row.seeded)
REAL = tuple(name for name, row in models.TABLE.items() if not row.seeded)
SEEDED_EXPORTS = tuple((name, exporter) for name in SEEDED for exporter in EXPORTERS)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Whoever draws without a generator of their own draws the same every time."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def parent_file() -> Callable[..., Path]:
    """``parent_file(recipe, exporter=..., **sizes)``: the ONNX file of a recipe, from the cache."""
    return models.cached


@pytest.fixture(scope="session", params=SEEDED_EXPORTS, ids="-".join)
def seeded_parent(request: pytest.FixtureRequest) -> Path:
    """Each seeded parent by each exporter: a test that takes it runs on all eight."""
    name, exporter = request.param
    return models.cached(name, exporter=exporter)
