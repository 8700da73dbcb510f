"""The rows of the matrix, by name."""

from __future__ import annotations

from tools.zoo import decoders, encoders, pairs, vision
from tools.zoo.row import Row

ROWS: dict[str, Row] = {row.name: row for row in (*encoders.ROWS, *decoders.ROWS, *vision.ROWS, *pairs.ROWS)}
