"""Language: SmolLM2-135M with the vocabulary of its texts, on WordNet, GCIDE and Python's documentation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import models
from benchmarks.speedup import materials
from benchmarks.speedup.config import Config
from benchmarks.speedup.logits import dress
from benchmarks.speedup.prepared import Array, Say, Task, Tensors, write_rows
from graphclone import choose_tokens, pipeline
from graphclone.errors import BadData
from graphclone.planner import Target

HELD_OUT = 20  # every so many pieces of each text one is set apart
ORDER = 7  # seed of the order of pieces


def write(config: Config, folder: Path, say: Say) -> None:
    """The parent with the tokens its texts use most, and rows of ids: as many tokens of each text."""
    from tokenizers import Tokenizer

    asked = config.data
    file = models.cached("smollm2", progress=say)
    parent = pipeline.load(file)
    tokenizer = Tokenizer.from_file(str(models.tokenizer_beside(file)))
    trained, judged = _split(tokenizer, asked)
    counts = Counter(i for text in trained for piece in text for i in tokenizer.encode(piece).ids)
    listed = folder / "tokens.txt"
    listed.write_text("\n".join(str(i) for i, _ in counts.most_common(asked["vocabulary"])))
    anatomy = pipeline.inspect(parent)
    tokens = choose_tokens(parent, anatomy, str(listed), tokenizer=models.tokenizer_beside(file))
    say(f"{len(tokens.kept):,} of {tokens.size:,} tokens stay")
    plan = pipeline.plan(anatomy, None, Target(), tokens=tokens.kept)
    trimmed = pipeline.clone(parent, plan, anatomy=anatomy)
    pipeline.save(trimmed, folder / "parent.onnx")
    small = Tokenizer.from_str(json.dumps(tokens.tokenizer))
    length = asked["length"]
    each, passed = asked["judged"] // len(judged), asked.get("passed", 0) // len(judged)
    judged = [_after(small, text, length * passed) for text in judged]
    rows = {
        "train": np.concatenate([_rows(small, text, length, asked["rows"] // len(trained)) for text in trained]),
        "held_out": np.concatenate([_rows(small, text, length, each) for text in judged]),
    }
    chosen = np.random.default_rng(ORDER).permutation(len(rows["train"]))[: asked["calibration"]]
    rows["calibration"] = rows["train"][np.sort(chosen)]
    masks = {f"{part}/attention_mask": np.ones_like(ids) for part, ids in rows.items()}
    write_rows(folder, {f"{part}/input_ids": ids for part, ids in rows.items()} | masks)


def _split(tokenizer: Any, asked: dict[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Pieces to train on and to judge on, text by text, with enough tokens for the rows asked."""
    trained, judged = [], []
    for name in asked["texts"]:
        held = materials.pieces(name)
        held = [held[k] for k in np.random.default_rng(ORDER).permutation(len(held))]
        wanted = 1.3 * asked["rows"] * asked["length"] / len(asked["texts"])  # fewer tokens make more of them
        size = len(tokenizer.encode("".join(held[:20])).ids) / 20
        count = min(len(held), max(3 * HELD_OUT, int(wanted / size * HELD_OUT / (HELD_OUT - 1)) + 1))
        judged.append(held[:count:HELD_OUT])
        trained.append([piece for k, piece in enumerate(held[:count]) if k % HELD_OUT])
    return trained, judged


def _after(tokenizer: Any, text: list[str], passed: int) -> list[str]:
    """The pieces in which none of the first so many tokens lie."""
    ends = np.cumsum([len(tokenizer.encode(piece).ids) for piece in text])
    return text[int(np.searchsorted(ends, passed)) + 1 :] if passed else text


def _rows(tokenizer: Any, text: list[str], length: int, count: int) -> Array:
    """[count, length]. Raises BadData where the text is shorter."""
    ids = np.concatenate([np.array(tokenizer.encode(piece).ids, np.int64) for piece in text])
    if len(ids) < count * length:
        raise BadData(f"{count} rows of {length} are asked for: a text has {len(ids):,} tokens for them")
    return ids[: count * length].reshape(-1, length)


def loss(output: torch.Tensor, rows: Tensors) -> torch.Tensor:
    """Nats a token, each predicted from those before it."""
    return F.cross_entropy(output[:, :-1].flatten(0, 1), rows["input_ids"][:, 1:].flatten())


TASK = Task(write, ("input_ids", "attention_mask"), loss, dress, "tokens", "nats a token")
