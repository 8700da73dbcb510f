"""The columns of the matrix: the ways in which a PyTorch parent becomes the ONNX file that graphclone meets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models.export import TORCHSCRIPT_OPSET
from tools.zoo import exporters, genai
from tools.zoo.row import Row, Sizes

ROOT = Path(__file__).resolve().parents[2]
DYNAMO_OPSET = 20
ATTENTION_OPSET = 23  # the first with ai.onnx Attention, RMSNormalization and RotaryEmbedding
EIGHT_WAYS = ("gpt2", "llama", "bert", "vit")  # rows that are tried with eager attention too

Build = Callable[[Row, Sizes, Path], None]


@dataclass(frozen=True)
class Column:
    """One way to an ONNX file. ``rows`` says which of transformers' architectures it takes.

    Either ``build`` exports, or ``transform`` (a row of transforms.py) is done to the file of column ``source``.
    ``rounding``: how far the exporter's own rounding of constants moves an output, where that is more than a float's.
    """

    name: str
    title: str
    build: Build | None = None
    rows: Callable[[Row], bool] = lambda row: True
    source: str = ""
    transform: str = ""
    rounding: float = 0.0

    def applies(self, row: Row) -> bool:
        """Whether there is such a way for this row."""
        return row.only == self.name or (row.only is None and self.rows(row))


def _dynamo(row: Row, sizes: Sizes, file: Path) -> None:
    exporters.dynamo(row.load(sizes), file, DYNAMO_OPSET)


def _torchscript(row: Row, sizes: Sizes, file: Path) -> None:
    exporters.torchscript(row.load(sizes), file, TORCHSCRIPT_OPSET)


def _merged(row: Row, sizes: Sizes, file: Path) -> None:
    exporters.torchscript(row.load(sizes, merged=True), file, TORCHSCRIPT_OPSET)


def _opset23(row: Row, sizes: Sizes, file: Path) -> None:
    parent = row.load(sizes)
    # ONNX Runtime's RotaryEmbedding wants tables of each row of a batch; without positions as an input they have one
    exporters.dynamo(exporters.with_positions(parent) if row.decoder else parent, file, ATTENTION_OPSET)


def _cached_dynamo(row: Row, sizes: Sizes, file: Path) -> None:
    exporters.dynamo(exporters.with_cache(row, sizes), file, DYNAMO_OPSET)


def _cached_torchscript(row: Row, sizes: Sizes, file: Path) -> None:
    exporters.torchscript(exporters.with_cache(row, sizes), file, TORCHSCRIPT_OPSET)


def _eager(build: Build) -> Build:
    def run(row: Row, sizes: Sizes, file: Path) -> None:
        build(replace(row, attention="eager"), sizes, file)

    return run


def _apart(module: str, *arguments: str) -> None:
    """Run a module of the zoo in an interpreter of its own ($ZOO_PYTHON where its packages live apart)."""
    command = [os.environ.get("ZOO_PYTHON", sys.executable), "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])


def _keras(row: Row, sizes: Sizes, file: Path) -> None:
    told = (sizes.hidden, sizes.heads, sizes.head_dim, sizes.ffn, sizes.layers, file.resolve())
    _apart("tools.zoo.keras_model", *map(str, told))


def transform(column: Column, row: Row, source: Path, target: Path) -> None:
    """Do to an export what the column does. Raises RuntimeError with the tool's last words."""
    first = row.expected(row.sizes)[0]
    told = [str(first.heads), str(first.hidden), row.fused or "bert"]
    _apart("tools.zoo.transforms", column.transform, str(source), str(target), *told)


def _decoder(row: Row) -> bool:
    return row.decoder is not None


def _eight_ways(row: Row) -> bool:
    return row.name in EIGHT_WAYS


def _after(name: str, title: str, change: str, source: str, rows: Callable[[Row], bool] = lambda row: True) -> Column:
    return Column(name, title, None, rows, source, change)


_TABLE = (
    Column("torchscript", "PyTorch TorchScript, opset 17", _torchscript),
    Column("dynamo", "PyTorch dynamo, opset 20", _dynamo),
    Column("opset23", "PyTorch dynamo, opset 23 (ai.onnx Attention)", _opset23),
    Column("cache-torchscript", "TorchScript with KV cache", _cached_torchscript, _decoder),
    Column("cache-dynamo", "dynamo with KV cache", _cached_dynamo, _decoder),
    # the builder rounds the root of the hidden size, by which Gemma scales its embedding, to two decimals
    Column("genai", "onnxruntime-genai's model builder", genai.build, lambda row: row.genai, rounding=5e-3),
    Column("eager-torchscript", "TorchScript, eager attention", _eager(_torchscript), _eight_ways),
    Column("eager-dynamo", "dynamo, eager attention", _eager(_dynamo), _eight_ways),
    _after("fused-torchscript", "TorchScript, then onnxruntime.transformers", "fused", "torchscript"),
    _after("fused-dynamo", "dynamo, then onnxruntime.transformers", "fused", "dynamo"),
    _after("fused-eager-torchscript", "the same, eager attention", "fused", "eager-torchscript", _eight_ways),
    _after("fused-eager-dynamo", "the same, eager attention", "fused", "eager-dynamo", _eight_ways),
    _after("ort-basic", "TorchScript, then an ORT session, basic", "ort-basic", "torchscript"),
    _after("ort-extended", "TorchScript, then an ORT session, extended", "ort-extended", "torchscript"),
    _after("onnxsim", "TorchScript, then onnxsim", "onnxsim", "torchscript"),
    _after("onnxslim", "TorchScript, then onnxslim", "onnxslim", "torchscript"),
    _after("float16", "TorchScript, then float16", "float16", "torchscript"),
    _after("bfloat16", "TorchScript, weights in bfloat16 behind a Cast", "bfloat16", "torchscript"),
    Column("merged", "TorchScript, equal tensors merged", _merged),
    Column("keras", "Keras 3, TensorFlow, tf2onnx", _keras, lambda row: False),
)
COLUMNS: dict[str, Column] = {column.name: column for column in _TABLE}
HEADLINE = tuple(f"{f}{e}{x}" for f in ("", "fused-") for e in ("", "eager-") for x in ("torchscript", "dynamo"))
