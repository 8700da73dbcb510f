"""A batch as people give it, as arrays by input name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphclone.errors import BadData, one_line


def arrays_of(batch: Mapping[str, Any], where: str) -> dict[str, np.ndarray[Any, Any]]:
    """Lists of numbers too. Raises BadData for what is no mapping, and for rows of several lengths."""
    if not isinstance(batch, Mapping):
        raise BadData(
            f"{where}: a {type(batch).__name__}, where a mapping from input names to arrays is wanted: batches are a "
            "list of those, such as [{'input_ids': ids}, ...]"
        )
    try:
        return {name: np.asarray(values) for name, values in batch.items()}
    except ValueError as reason:
        raise BadData(f"{where}: no array can be made of it ({one_line(reason, 120)})") from None
