"""Imitation of the parent's next-token probabilities, for the arms that are taught; the parent's time is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.speedup.prepared import Array, Prepared
from benchmarks.speedup.training import Imitate
from graphclone import outputs
from graphclone.errors import BadData
from graphclone.pytorch.training.losses import Taught, divergence
from graphclone.verification.sessions import open_session

TOP = 64  # tokens kept of what the parent says; the others count as one
FILE = "said.npz"
KEPT_EVERY = 256  # rows


class Parent:
    """What the parent says of training rows: log-probabilities of its likeliest tokens, each row once, kept on disk."""

    def __init__(self, held: Prepared) -> None:
        if "logits" not in {tensor.name for tensor in held.source.parent.graph.outputs}:
            raise BadData(f"{held.config.name}: nothing to imitate: its parent gives no logits")
        self.held = held
        self.session: Any = None
        self.said: dict[int, tuple[Array, Array]] = {}
        self.kept = 0
        if (file := held.folder / FILE).is_file():
            with np.load(file) as kept:
                each = zip(kept["rows"].tolist(), kept["logs"], kept["top"], strict=True)
                self.said = {row: (logs, top) for row, logs, top in each}
                self.kept = len(self.said)

    def of(self, rows: Array, device: torch.device | None = None) -> Taught:
        """Of some rows, in their order."""
        new = [int(r) for r in rows if int(r) not in self.said]
        if new:
            self._ask(new)
        logs, top = (np.stack([self.said[int(r)][k] for r in rows]) for k in (0, 1))
        return Taught(torch.from_numpy(logs).to(device), torch.from_numpy(top.astype(np.int64)).to(device))

    def _ask(self, rows: list[int]) -> None:
        if self.session is None:
            self.session = open_session(self.held.source.parent)
        fed = {name: self.held.train[name][rows] for name in self.held.task.inputs}
        logits = torch.from_numpy(self.session.run(fed)["logits"])
        logs, top = torch.log_softmax(logits, -1).topk(TOP)
        for k, row in enumerate(rows):
            self.said[row] = (logs[k].numpy(), top[k].to(torch.int32).numpy())

    def keep(self) -> None:
        """Write what was said so far."""
        rows = sorted(self.said)
        with outputs.staged(self.held.folder / FILE) as draft, draft.open("wb") as stream:
            logs, top = (np.stack([self.said[r][k] for r in rows]) for k in (0, 1))
            np.savez(stream, rows=np.array(rows), logs=logs, top=top)
        self.kept = len(rows)


def imitation(held: Prepared, share: float) -> Imitate:
    """A share of the loss is the divergence from the parent (forward KL, temperature 1), the rest the task's own."""
    parent = Parent(held)

    def loss(output: torch.Tensor, rows: Array, own: torch.Tensor) -> torch.Tensor:
        taught = parent.of(rows, output.device)
        if len(parent.said) >= parent.kept + KEPT_EVERY:
            parent.keep()
        return (1 - share) * own + share * divergence(output, taught, None)

    return loss
