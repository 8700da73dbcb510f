"""JSON that every reader takes: its numbers have no word for infinity and NaN, which become "inf", "-inf" and "nan"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(held: Any) -> str:
    """One line, keys sorted; what JSON does not know is said as ``str`` says it.

    >>> dumps({"score": float("inf"), "losses": (1.5, float("nan"))})
    '{"losses": [1.5, "nan"], "score": "inf"}'
    """
    return json.dumps(_plain(held), sort_keys=True, default=str, allow_nan=False)


def _plain(held: Any) -> Any:
    if isinstance(held, float):
        return held if math.isfinite(held) else str(float(held))  # as float() reads it again
    if isinstance(held, Mapping):
        return {key: _plain(value) for key, value in held.items()}
    return [_plain(value) for value in held] if isinstance(held, list | tuple) else held
