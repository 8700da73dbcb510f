"""Tells constant matrices that only permute numbers, and may flip their signs: rotary embedding may exchange a head's
halves by a product with one."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphclone.anatomy.parts import Ids

AT_MOST = 1 << 20  # elements of a matrix that is looked at


def sources(matrix: np.ndarray[Any, Any]) -> Ids | None:
    """Where each column comes from; None where one depends on several rows, or on none, and for the identity, which
    is how some weights begin.

    >>> sources(np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])).tolist(), sources(np.array([[1, 1], [0, 1]]))
    ([1, 2, 0], None)
    """
    square = matrix.ndim == 2 and 1 < matrix.shape[0] == matrix.shape[1]
    if not square or matrix.size > AT_MOST or np.count_nonzero(matrix[0]) != 1:  # all that is read of any other weight
        return None
    held = matrix != 0
    alone = (held.sum(0) == 1).all() and (held.sum(1) == 1).all()
    order = held.argmax(0)
    moves = alone and (order != np.arange(len(order))).any()
    return order if moves and len(np.unique(np.abs(matrix[held]))) == 1 else None
