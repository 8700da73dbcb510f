"""A curve in plain characters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

WIDTH, HEIGHT = 60, 8  # characters
EIGHTHS = " ▁▂▃▄▅▆▇█"


def curve(points: Sequence[tuple[int, float]], title: str) -> Iterator[str]:
    """Lines of a small chart: bars of each point's height, the largest and the smallest value at the side.

    >>> print(*curve([(0, 4.0), (1, 2.0), (2, 1.0)], "loss"), sep="\\n")
    loss
        4.000 ┤█
              ┤█
              ┤█
              ┤█
              ┤█
              ┤█▆
              ┤██
        1.000 ┤██▁
               0 step 2
    """
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if len(finite) < 2:
        return
    values = [value for _, value in _spread(finite)]
    low, high = min(values), max(values)
    heights = [1 + round((value - low) / (high - low or 1) * (HEIGHT * 8 - 1)) for value in values]
    yield title
    for row in range(HEIGHT - 1, -1, -1):
        label = {HEIGHT - 1: f"{high:.3f}", 0: f"{low:.3f}"}.get(row, "")
        bar = "".join(EIGHTHS[min(8, max(0, height - 8 * row))] for height in heights)
        yield f"{label:>9} ┤{bar}".rstrip()
    first, last = f"{finite[0][0]:,}", f"step {finite[-1][0]:,}"
    yield f"{'':>9}  {first}{' ' * max(1, len(values) - len(first) - len(last))}{last}"


def _spread(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most WIDTH points: means of neighbours where there are more."""
    if len(points) <= WIDTH:
        return points
    bounds = [len(points) * k // WIDTH for k in range(WIDTH + 1)]
    parts = [points[a:b] for a, b in pairwise(bounds)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
