"""TABLE (domain, operator, since_version) -> how torch computes it, one file a theme."""

from graphclone.pytorch.operators import (
    attention,
    convolution,
    elementwise,
    grouped_attention,
    indexing,
    linear,
    movement,
    norms,
    quantised,
    resizing,
    sizes,
)
from graphclone.pytorch.operators.rows import ON_SIZES, TABLE, Call, Lookup, Row

__all__ = [
    "ON_SIZES",
    "TABLE",
    "Call",
    "Lookup",
    "Row",
    "attention",
    "convolution",
    "elementwise",
    "grouped_attention",
    "indexing",
    "linear",
    "movement",
    "norms",
    "quantised",
    "resizing",
    "sizes",
]
