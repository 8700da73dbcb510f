"""Recipes: parents as ONNX files, built from pip packages or from a seed, without a model hub.

>>> import models
>>> file = models.cached("llama", exporter="torchscript")  # doctest: +SKIP
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: everything is read from packages

from models.building import build, cache_folder, cached, options, parent, recipe, tokenizer_beside
from models.recipe import Options, Parent, Recipe, Shape
from models.table import TABLE

__all__ = [
    "TABLE",
    "Options",
    "Parent",
    "Recipe",
    "Shape",
    "build",
    "cache_folder",
    "cached",
    "options",
    "parent",
    "recipe",
    "tokenizer_beside",
]
