"""Some data is set apart: a fit by second moments is judged on tokens that it has not seen.

One batch in ``EVERY`` is. Its sums count like all others, and are kept beside them once more, at the sites that have
second moments, as ``unseen_moment``, ``unseen_sum`` and ``unseen_count`` ([1]): sums too, which add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from graphclone.statistics.store import COUNT, Statistics

Array = np.ndarray[Any, Any]
EVERY = 5  # METHOD: four fifths are fitted, one fifth judges
KEPT = ("moment", "sum")


@dataclass(frozen=True)
class Part:
    """The batches of a source that are set apart, or all the others; read anew at each iteration."""

    source: Iterable[Mapping[str, Array]]
    apart: bool

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for number, batch in enumerate(self.source, 1):
            if (number % EVERY == 0) is self.apart:
                yield batch

    @property
    def any(self) -> bool:
        """Is there a batch to set apart at all?"""
        return next(islice(iter(self.source), EVERY - 1, None), None) is not None


def joined(fitted: Statistics, unseen: Statistics) -> Statistics:
    """Both together, with the sums of ``unseen`` beside. Raises BadData for what does not add up."""
    whole = fitted.merge(unseen)
    sites = {name: dict(held) for name, held in whole.sites.items()}
    for name, held in unseen.sites.items():
        if "moment" in held:
            sites[name] |= {f"unseen_{statistic}": held[statistic] for statistic in KEPT}
            sites[name][f"unseen_{COUNT}"] = np.array([held[COUNT]], np.float64)
    return replace(whole, sites=sites)
