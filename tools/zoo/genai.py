"""Row -> ONNX by onnxruntime-genai's model builder: GroupQueryAttention, SkipSimplifiedLayerNormalization, KV cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from tools.zoo.row import VOCAB, Row, Sizes


def build(row: Row, sizes: Sizes, file: Path) -> None:
    """Write the builder's float32 CPU model to one file. Raises RuntimeError with the builder's last words."""
    with tempfile.TemporaryDirectory() as folder:
        build_folder(row, sizes, Path(folder))
        onnx.save(onnx.load(Path(folder, "model.onnx")), file)


def build_folder(row: Row, sizes: Sizes, made: Path, *options: str, precision: str = "fp32") -> None:
    """The builder's whole folder: model.onnx with its data, genai_config.json, the tokenizer. Raises as ``build``.

    options: the builder's extra ones, each ``key=value``.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        row.load(sizes).module.save_pretrained(source)  # type: ignore[operator]
        words = Tokenizer(models.WordLevel({str(k): k for k in range(VOCAB)}, unk_token="0"))  # noqa: S106
        wrapped: Any = PreTrainedTokenizerFast
        wrapped(tokenizer_object=words, unk_token="0").save_pretrained(source)  # noqa: S106
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(made)]
        command += ["-p", precision, "-e", "cpu", "-c", str(Path(folder, "cache"))]
        command += ["--extra_options", *options] if options else []
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
