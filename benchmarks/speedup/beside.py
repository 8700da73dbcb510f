"""The encoder's clones beside a model of their size that was made otherwise: paraphrase-MiniLM-L3-v2, as it ships.

That one was never taught to give this parent's embeddings, so it is judged in two ways that allow for it: by the order
in which it puts pairs of held-out sentences, for which no two models need to agree on directions; and by the cosine to
the parent's embeddings after the best linear map, fitted on the rows that clones are trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import models
from benchmarks.speedup import encoder, runs
from benchmarks.speedup.arms import ARMS
from benchmarks.speedup.config import Config
from benchmarks.speedup.curves import Key
from benchmarks.speedup.findings import PAPERS, Finding
from benchmarks.speedup.prepared import Array, Prepared, Rows, Say
from benchmarks.speedup.training import branches
from graphclone import outputs, pipeline
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.verification.sessions import open_session

FILE = "beside.json"
OTHER, CALLED = "paraphrase", "paraphrase-MiniLM-L3-v2"
ABOUT = """paraphrase-MiniLM-L3-v2, three layers of hidden 384, was distilled by others, on other data, for another use,
and never taught to give this parent's embeddings: its cosine is that after the best linear map, fitted on the rows that
clones are trained on. The order of likeness of all pairs of held-out sentences needs no map. One seed."""
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "461"  # of the other: the mean over tokens, which has no better name
AT_ONCE = 64


def write(held: Prepared, say: Say) -> None:
    """Train one clone of each arm to B, with the first seed, and judge it and the other on the held-out rows."""
    if held.config.task != "encoder":
        raise BadData(f"{held.config.name}: only an encoder has a model of its size to stand beside")
    found = [_other(held, say)]
    for name in (held.config.nothing, *PAPERS, "default"):
        tuned = runs.known(held.config, ARMS[name])
        if tuned is None:
            raise BadData(f"{name}: run it first: python -m benchmarks.speedup {held.config.name} --arms {name}")
        say(f"{name}: training {held.config.budget} steps")
        said, parameters = _trained(held, Key(ARMS[name].kept, tuned.rate, tuned.decay, held.config.seeds[0]))
        lost = 1 - _cosine(said, held.held_out["target"])
        row = _row(f"{name}, after {held.config.budget} steps", parameters, said, held, lost)
        found.append(row | {"arm": name, "rate": tuned.rate, "decay": tuned.decay})
    with outputs.staged(held.config.folder / FILE) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n")


def read(config: Config, tuned: Mapping[str, Finding]) -> list[dict[str, Any]]:
    """The rows that ``write`` wrote, but for arms that have been tuned otherwise since; none where it never ran."""
    file = config.folder / FILE
    rows = list(json.loads(file.read_text())) if file.is_file() else []
    now = {name: (one.rate, one.decay) for name, one in tuned.items()}
    return [row for row in rows if "arm" not in row or now.get(row["arm"]) == (row["rate"], row["decay"])]


def _row(name: str, parameters: int, said: Array, held: Prepared, lost: float) -> dict[str, Any]:
    return {"model": name, "parameters": parameters, "loss": lost, "order": order(said, held.held_out["target"])}


def _other(held: Prepared, say: Say) -> dict[str, Any]:
    """The other's row. It is fed the very pieces that clones are fed, by their numbers in the whole vocabulary."""
    model = pipeline.load(models.cached(OTHER, progress=say))
    say(f"{CALLED} reads {len(held.train['input_ids']):,} rows")
    numbers = encoder.kept_tokens(held.folder, say)
    seen, unseen = (_embedded(model, rows, numbers) for rows in (held.train, held.held_out))
    bias = [np.ones((len(part), 1), np.float32) for part in (seen, unseen)]
    fitted = np.linalg.lstsq(np.hstack([seen, bias[0]]), _unit(held.train["target"]), rcond=None)[0]
    lost = 1 - _cosine(np.hstack([unseen, bias[1]]) @ fitted, held.held_out["target"])
    return _row(f"{CALLED}, and a linear map", pipeline.inspect(model).parameters, unseen, held, lost)


def _embedded(model: Model, rows: Rows, numbers: Array) -> Array:
    session = open_session(model)
    found = []
    for k in range(0, len(rows["input_ids"]), AT_ONCE):
        fed = {name: rows[name][k : k + AT_ONCE] for name in INPUTS}
        found.append(session.run(fed | {"input_ids": numbers[fed["input_ids"]]})[OUTPUT])
    if found[0].shape[1:] != (encoder.WIDTH,):
        raise BadData(f"{CALLED}: its output {OUTPUT} is {list(found[0].shape)}, no embedding a row")
    return _unit(np.concatenate(found))


def _trained(held: Prepared, key: Key) -> tuple[Array, int]:
    """Embeddings of the held-out rows by a clone that was trained to B."""
    learner = runs.learner(held, ARMS[key.arm], key)
    branches(learner, [held.config.budget])
    learner.module.eval()
    count = len(held.held_out["input_ids"])
    with torch.no_grad():
        parts = [
            learner.output(learner.tensors(held.held_out, slice(k, k + AT_ONCE))) for k in range(0, count, AT_ONCE)
        ]
    parameters = sum(p.numel() for p in learner.module.parameters())
    return torch.cat(parts).cpu().numpy(), parameters


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _cosine(one: Array, other: Array) -> float:
    """Mean over rows."""
    return float((_unit(one) * _unit(other)).sum(1).mean())


def order(one: Array, other: Array) -> float:
    """Spearman's correlation of the cosines of all pairs of rows, [rows, width] each: 1 where both put the pairs in the
    same order of likeness."""
    ranked = []
    for rows in (_unit(one), _unit(other)):
        likeness = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        ranked.append(np.argsort(np.argsort(likeness)))
    return float(np.corrcoef(ranked[0], ranked[1])[0, 1])
