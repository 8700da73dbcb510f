"""Statistics equal float64 on what no recipe of models/ has. Of the whole matrix: python -m tools.measured FILE..."""

from __future__ import annotations

import pytest

from graphclone import graph
from graphclone.anatomy import inspect
from models import cache_folder
from tests.tolerances import STATISTICS, TOLERANCE
from tests.zoo.test_cells import SLICE
from tools import measured
from tools.zoo import build
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS


@pytest.mark.parametrize(("row", "column"), SLICE)
def test_measured_sums_equal_float64(row, column):
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[row], COLUMNS[column], folder):
        build.build(ROWS[row], COLUMNS[column], folder)
    model = graph.load(build.file_of(ROWS[row], COLUMNS[column], folder))
    anatomy = inspect(model)
    worst = measured.first(model, anatomy, measured.padded(model, 1))
    assert set(worst) == {"abs", "sum", "square", "moment", "moment_sum", "moment_count", "cosine", "ratio"}
    # the CPU computes half precision in float32, and rounds where it is looked at
    assert max(worst.values()) < (TOLERANCE["float16"] if column == "float16" else STATISTICS)
    norms = sum(len(stack.norms) + sum(len(block.norms) for block in stack.blocks) for stack in anatomy.stacks)
    assert sum(site.kind == "norm" for site in anatomy.sites) > 0
    assert sum(site.kind == "norm" for site in anatomy.sites) <= norms
