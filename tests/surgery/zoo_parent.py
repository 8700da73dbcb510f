"""Architectures that the recipes do not have, from the zoo, built once."""

from __future__ import annotations

import models
from graphclone import graph
from graphclone.anatomy import inspect
from tests.surgery.parents import Parent
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS


def zoo_parent(name: str, column: str) -> Parent:
    """One cell of the zoo."""
    folder = models.cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[name], COLUMNS[column], folder):
        build.build(ROWS[name], COLUMNS[column], folder)
    model = graph.load(build.file_of(ROWS[name], COLUMNS[column], folder))
    return Parent(name, column, model, inspect(model))
