"""A small decoder-like transformer in Keras 3, exported by ``model.export(format="onnx")`` (TensorFlow and tf2onnx).

Needs Keras and TensorFlow alone: ``python -m tools.zoo.keras_model HIDDEN HEADS HEAD_DIM FFN LAYERS TARGET``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VOCAB = 131


def build(hidden: int, heads: int, head_dim: int, ffn: int, blocks: int, file: Path) -> None:
    """Pre-norm blocks of attention and ReLU feed-forward between an embedding and a head; seeded random weights."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    import numpy as np
    from keras import layers

    ids = keras.Input((None,), dtype="int32", name="input_ids")
    stream = layers.Embedding(VOCAB, hidden)(ids)
    for _ in range(blocks):
        normed = layers.LayerNormalization()(stream)
        stream = layers.Add()([stream, layers.MultiHeadAttention(heads, head_dim)(normed, normed)])
        inner = layers.Dense(ffn, activation="relu")(layers.LayerNormalization()(stream))
        stream = layers.Add()([stream, layers.Dense(hidden)(inner)])
    model = keras.Model(ids, layers.Dense(VOCAB)(layers.LayerNormalization()(stream)))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape) * 0.2 + ("gamma" in weight.path))
    model(np.zeros((2, 7), np.int32))  # Keras exports what has run once
    model.export(str(file), format="onnx", verbose=False)


if __name__ == "__main__":
    hidden, heads, head_dim, ffn, blocks = map(int, sys.argv[1:6])
    build(hidden, heads, head_dim, ffn, blocks, Path(sys.argv[6]))
