"""Held-out loss of a language model in ONNX Runtime, computed from its logits with NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphclone.verification.sessions import open_session

if TYPE_CHECKING:
    from graphclone.graph import Model

Array = np.ndarray[Any, Any]


def loss(model: Model, batches: Iterable[Mapping[str, Array]]) -> float:
    """Mean cross-entropy in nats a token, each token predicted from those before it.

    The batches hold ``input_ids`` [batch, length]; the model's first output is logits [batch, length, vocabulary].
    """
    session = open_session(model)
    total, count = 0.0, 0
    for batch in batches:
        logits_BLV = next(iter(session.run(batch).values()))
        losses = cross_entropy(logits_BLV[:, :-1], np.asarray(batch["input_ids"])[:, 1:])
        total += float(losses.sum())
        count += losses.size
    return total / count


def cross_entropy(logits_BLV: Array, ids_BL: Array) -> Array:
    """-log softmax(logits)[id], in float64 [batch, length].

    >>> cross_entropy(np.zeros((1, 2, 4), np.float32), np.array([[1, 3]])).round(4)
    array([[1.3863, 1.3863]])
    """
    shifted = logits_BLV - logits_BLV.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, ids_BL[..., None], axis=-1)[..., 0].astype(np.float64)
    result: Array = np.log(np.exp(shifted).sum(axis=-1, dtype=np.float64)) - chosen
    return result
