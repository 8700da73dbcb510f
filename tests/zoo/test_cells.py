"""A fixed slice of the compatibility matrix: what no recipe of models/ has. The whole of it: make zoo."""

from __future__ import annotations

import pytest

from models import cache_folder
from tools.zoo import build, cell, goldens
from tools.zoo.columns import COLUMNS
from tools.zoo.rows import ROWS

# one row for each thing that an architecture or an exporter can do to a graph
SLICE = (
    ("gpt-neox", "torchscript"),  # packed QKV head by head, rotary on a part of the head, parallel residual
    ("bloom", "torchscript"),  # ALiBi, heads folded into the batch
    ("opt", "torchscript"),  # ReLU, learned positions with an offset
    ("qwen3", "torchscript"),  # norms on queries and keys, heads wider than the residual stream
    ("gemma2", "torchscript"),  # four norms, scaled embedding, capped scores
    ("distilbert", "torchscript"),  # masks by comparison
    ("deit", "torchscript"),  # two extra tokens, two heads
    ("beit", "torchscript"),  # relative position bias on an image
    ("dinov2", "torchscript"),  # LayerScale
    ("siglip", "torchscript"),  # pooled by an attention of its own
    ("clip", "torchscript"),  # two towers
    ("falcon", "torchscript"),  # one KV head, packed with the queries
    ("codegen", "torchscript"),  # heads along two axes
    ("olmo2", "torchscript"),  # queries normed across heads
    ("albert", "torchscript"),  # layers that share their weights
    ("qwen3", "cache-torchscript"),  # KV cache in and out
    ("gpt2", "fused-torchscript"),  # Attention, SkipLayerNormalization, FastGelu
    ("llama", "ort-extended"),  # what a session writes
    ("t5", "ort-extended"),  # two stacks, cross-attention, relative positions; a product took the tied head's scale in
    ("bert", "float16"),
    ("gpt2", "merged"),  # equal tensors are one
)
TWINLESS = ("siglip",)  # its pooling head stays as wide as it was: no configuration has that
# dynamo takes seconds: its twins are for make zoo
DYNAMO = (
    *((row, "dynamo") for row in ("gpt-neox", "bloom", "opt", "qwen3", "distilbert", "deit", "dinov2", "siglip")),
    ("llama", "opset23"),  # ai.onnx Attention, RMSNormalization, RotaryEmbedding
)
CHANGED = "changed: make zoo, then python -m tools.goldens --zoo, and review the diff"


def exam(row, column, *, twin=True, quick=True):
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    if not build.present(ROWS[row], COLUMNS[column], folder):
        build.build(ROWS[row], COLUMNS[column], folder)
    return cell.examine(cell.Cell.read(build.file_of(ROWS[row], COLUMNS[column], folder)), quick=quick, native=twin)


def bad(made):
    return {v.question: v.detail for v in made.verdicts if v.answer != cell.GREEN}


@pytest.mark.parametrize(("row", "column"), SLICE)
def test_a_cell_is_green(row, column):
    made = exam(row, column)
    assert bad(made) == {}
    twin = next(v.detail for v in made.verdicts if v.question == "native twin")
    limit = 3e-2 if column == "float16" else 1e-4
    assert row in TWINLESS or float(twin) <= limit, "the twin is the same graph here, so it has to be compared"
    assert made.anatomy.rstrip() == goldens.read(row)[column], CHANGED


@pytest.mark.parametrize(("row", "column"), DYNAMO)
def test_a_cell_of_the_other_exporter_is_green(row, column):
    made = exam(row, column, twin=False)
    assert bad(made) == {}
    assert made.anatomy.rstrip() == goldens.read(row)[column], CHANGED


def test_each_cut_alone_where_the_heads_of_a_cache_are_a_product():
    assert bad(exam("codegen", "cache-torchscript", twin=False, quick=False)) == {}


def test_every_golden_is_of_a_cell():
    cells = {(row.name, column.name) for row, column in build.cells([])}
    held = {(file.stem, column) for file in goldens.FOLDER.iterdir() for column in goldens.read(file.stem)}
    assert held <= cells, "the matrix has no such cells"
