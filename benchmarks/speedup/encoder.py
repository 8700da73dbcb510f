"""Encoder: all-MiniLM-L6-v2, whose embeddings of WordNet's glosses a smaller encoder learns to give."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import models
from benchmarks.speedup import materials
from benchmarks.speedup.config import Config
from benchmarks.speedup.prepared import Array, Rows, Say, Task, Tensors, note, write_rows
from graphclone import choose_tokens, pipeline
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.verification.sessions import open_session

ORDER = 7
WIDTH = 384  # of the parent's embeddings
AT_ONCE = 64
DEVIATION = 0.02
LISTED = "tokens.txt"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write(config: Config, folder: Path, say: Say) -> None:
    """The parent with the tokens its sentences use most, sentences in rows of one length, and what it says of them."""
    asked = config.data
    file = models.cached("minilm", progress=say)
    beside = models.tokenizer_beside(file)
    sentences = list(materials.wordnet())
    first = asked["rows"] + asked.get("passed", 0)  # of those judged
    count = first + asked["judged"]
    chosen = np.random.default_rng(ORDER).permutation(len(sentences))[:count]
    held = [sentences[k].strip() for k in chosen]
    tokenizer = _tokenizer(Tokenizer.from_file(str(beside)), asked["length"])
    counts = Counter(i for text in held[: asked["rows"]] for i in tokenizer.encode(text).ids)
    (folder / LISTED).write_text("\n".join(str(i) for i, _ in counts.most_common(asked["vocabulary"])))
    parent = pipeline.load(file)
    anatomy = pipeline.inspect(parent)
    tokens = choose_tokens(parent, anatomy, str(folder / LISTED), tokenizer=beside)
    say(f"{len(tokens.kept):,} of {tokens.size:,} tokens stay")
    plan = pipeline.plan(anatomy, None, Target(), tokens=tokens.kept)
    pipeline.save(pipeline.clone(parent, plan, anatomy=anatomy), folder / "parent.onnx")
    small = _tokenizer(Tokenizer.from_str(json.dumps(tokens.tokenizer)), asked["length"])
    rows = _encoded(small, held)
    start = time.monotonic()
    rows["target"] = _embedded(pipeline.load(folder / "parent.onnx"), rows)
    note(folder, "teacher", time.monotonic() - start)
    places = {
        "train": slice(0, asked["rows"]),
        "held_out": slice(first, count),
        "calibration": slice(0, asked["calibration"]),
    }
    write_rows(folder, {f"{part}/{name}": array[s] for part, s in places.items() for name, array in rows.items()})


def kept_tokens(folder: Path, say: Say) -> Array:
    """Their numbers in the whole vocabulary, int64 [tokens], in the order of the parent's."""
    file = models.cached("minilm", progress=say)
    parent = pipeline.load(file)
    listed, beside = str(folder / LISTED), models.tokenizer_beside(file)
    return np.array(choose_tokens(parent, pipeline.inspect(parent), listed, tokenizer=beside).kept, np.int64)


def _tokenizer(tokenizer: Tokenizer, length: int) -> Tokenizer:
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return tokenizer


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Array]:
    found = tokenizer.encode_batch(texts)
    ids = np.array([e.ids for e in found], np.int64)
    mask = np.array([e.attention_mask for e in found], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _embedded(parent: Model, rows: dict[str, Array]) -> Array:
    """The parent's embeddings, float32 [rows, WIDTH]: means over the mask."""
    session = open_session(parent)
    found = []
    for k in range(0, len(rows["input_ids"]), AT_ONCE):
        part = {name: rows[name][k : k + AT_ONCE] for name in INPUTS}
        states = session.run(part)["last_hidden_state"]
        mask = part["attention_mask"][..., None]
        found.append((states * mask).sum(1) / mask.sum(1))
    return np.concatenate(found).astype(np.float32)


def loss(output: torch.Tensor, rows: Tensors) -> torch.Tensor:
    """1 - cosine to the parent's embedding."""
    return (1 - F.cosine_similarity(output, rows["target"], dim=-1)).mean()


class Embedding(nn.Module):
    """The mean over the mask, brought to the parent's width by a matrix that is trained with the encoder."""

    def __init__(self, inside: nn.Module, matrix: torch.Tensor) -> None:
        super().__init__()
        self.inside = inside
        self.matrix = nn.Parameter(matrix)

    def forward(self, **fed: torch.Tensor) -> torch.Tensor:
        """[batch, WIDTH]."""
        states = self.inside(**fed)["last_hidden_state"]
        mask = fed["attention_mask"][..., None].to(states.dtype)
        found: torch.Tensor = ((states * mask).sum(1) / mask.sum(1)) @ self.matrix
        return found


def least(train: Rows, held_out: Rows, hidden: int) -> float:
    """The loss of the parent's embeddings in their ``hidden`` principal directions: behind a clone stands a matrix of
    so many rows, which knows no more of them."""
    seen, unseen = (
        rows["target"] / np.linalg.norm(rows["target"], axis=1, keepdims=True) for rows in (train, held_out)
    )
    directions = np.linalg.eigh(seen.T @ seen)[1][:, -hidden:]
    share = np.linalg.norm(unseen @ directions, axis=1)  # the cosine of a row of length 1 and what is left of it
    return float(1 - share.mean())


def dress(module: nn.Module, clone: Model, nothing: bool, seed: int) -> nn.Module:
    """A clone's neurons begin where they were in the parent's embedding; a start from nothing knows no such place."""
    plan = Plan.from_json(clone.metadata["graphclone.plan"])
    kept = next(held for name, held in plan.keep.items() if len(held) == plan.target["hidden"] and "residual" in name)
    matrix = torch.zeros(len(kept), WIDTH)
    matrix[torch.arange(len(kept)), list(kept)] = 1.0
    if nothing:
        matrix = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed)) * DEVIATION
    return Embedding(module, matrix)


TASK = Task(write, INPUTS, loss, dress, "tokens", "1 - cosine to the parent", least)
