"""The recipes' seeded GPT-2, inspected, with the configuration that made it."""

from __future__ import annotations

import pytest

import models
from graphclone import graph
from graphclone.anatomy import inspect
from tools.zoo.row import Expected


@pytest.fixture(scope="session")
def seeded_anatomy():
    shape = models.recipe("gpt2").shape
    anatomy = inspect(graph.load(models.cached("gpt2", exporter="torchscript")))
    head_dim = shape.hidden // shape.heads
    return anatomy, Expected(shape.hidden, shape.layers, shape.heads, shape.heads, head_dim, shape.ffn)
