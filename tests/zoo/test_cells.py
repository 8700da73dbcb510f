"""A fixed slice of the compatibility matrix: what no recipe of models/ has. The whole of it: make zoo."""

from __future__ import annotations

import pytest

from models import cache_folder
from tools.zoo import build, cell
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS

# one row for each thing that an architecture can do to a graph
SLICE = (
    ("gpt-neox", "torchscript"),  # packed QKV head by head, rotary on a part of the head, parallel residual
    ("bloom", "torchscript"),  # ALiBi, heads folded into the batch
    ("t5", "torchscript"),  # two stacks, cross-attention, relative positions, scaled tied head
    ("qwen3", "cache-torchscript"),  # KV cache in and out, norms on queries and keys
    ("beit", "torchscript"),  # relative position bias on an image
)


@pytest.fixture(scope="module", params=SLICE, ids="-".join)
def file(request):
    row, column = request.param
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[row], COLUMNS[column], folder):
        build.build(ROWS[row], COLUMNS[column], folder)
    return folder / f"{row}-{column}.onnx"


def test_a_cell_is_green(file):
    verdicts = cell.examine(cell.Cell.read(file), quick=True).verdicts
    assert {v.question: v.detail for v in verdicts if v.answer != cell.GREEN} == {}
    twin = next(v.detail for v in verdicts if v.question == "native twin")
    assert float(twin) <= 1e-4, "the twin is the same graph here, so it has to be compared"
