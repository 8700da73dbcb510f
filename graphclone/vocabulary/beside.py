"""Beside the clone: its tokenizer, and which of the parent's ids each of its own is."""

from __future__ import annotations

import json
from pathlib import Path

from graphclone.outputs import staged
from graphclone.vocabulary.tokens import Tokens

FORMAT = 1


def write(tokens: Tokens, model: Path) -> list[Path]:
    """``<name>.tokenizer.json`` (where the parent's is known) and ``<name>.vocab.json`` beside ``<name>.onnx``.

    The map: ``ids[k]`` is the parent's id of the clone's token k; ``parent`` how many tokens the parent has.
    """
    told = {"format": FORMAT, "parent": tokens.size, "ids": list(tokens.kept)}
    texts = {model.with_suffix(".vocab.json"): json.dumps(told) + "\n"}
    if tokens.tokenizer is not None:
        texts[model.with_suffix(".tokenizer.json")] = json.dumps(tokens.tokenizer, ensure_ascii=False) + "\n"
    for path, text in texts.items():
        with staged(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return sorted(texts)
