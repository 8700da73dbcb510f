"""How much worse a clone is than its parent before any training, on data that it was not measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphclone import feeds
from graphclone.graph import Model
from graphclone.verification.sessions import open_session

Array = np.ndarray[Any, Any]
POSITIONS = 1024


class Judge:
    """Holds the data and what the parent makes of it.

    For token ids and logits over the same vocabulary: cross-entropy of each next token, in nats. Else how unlike the
    outputs lie: 1 - linear CKA over their positions (Kornblith et al. 2019, arXiv 1905.00414), which asks for no equal
    width, so that hidden states of a narrower clone are judged too.
    """

    def __init__(self, parent: Model, batches: Iterable[Mapping[str, Array]]) -> None:
        known = feeds.inputs(parent)
        self.batches = [feeds.fill(known, batch, "held-out data") for batch in batches]
        self.answers = [open_session(parent).run(batch) for batch in self.batches]
        self.tokens = next((i for i in known.values() if i.role.name == "tokens" and i.rows), None)
        self.language = self._logits(self.answers[0]) is not None

    @property
    def unit(self) -> str:
        """What ``score`` is measured in."""
        return "loss" if self.language else "error"

    def parent(self) -> float:
        """The parent's own score."""
        return self._mean(self.answers)

    def score(self, clone: Model) -> float:
        """Lower is better; infinity where no output can be compared."""
        known = feeds.inputs(clone)
        session = open_session(clone)
        return self._mean([session.run({n: b[n] for n in known if n in b}) for b in self.batches])

    def _mean(self, answers: list[dict[str, Array]]) -> float:
        one = self._loss if self.language else self._error
        return float(np.mean([one(k, answer) for k, answer in enumerate(answers)]))

    def _logits(self, answer: Mapping[str, Array]) -> str | None:
        if self.tokens is None:
            return None
        shape = (*self.batches[0][self.tokens.name].shape, self.tokens.rows)
        return next((name for name, array in answer.items() if array.shape == shape), None)

    def _loss(self, number: int, answer: Mapping[str, Array]) -> float:
        assert self.tokens is not None
        name = self._logits(self.answers[0])
        logits = answer[name or ""][:, :-1].astype(np.float64)
        ids = self.batches[number][self.tokens.name][:, 1:]
        shifted = logits - logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(shifted, ids[..., None], axis=-1)[..., 0]
        return float((np.log(np.exp(shifted).sum(axis=-1)) - chosen).mean())

    def _error(self, number: int, answer: Mapping[str, Array]) -> float:
        errors = []
        for name, wanted in self.answers[number].items():
            found = answer.get(name)
            if found is not None and found.shape[:-1] == wanted.shape[:-1] and wanted.dtype.kind in "fV":
                errors.append(1.0 - alikeness(wanted, found))
        return float(np.mean(errors)) if errors else float("inf")


def alikeness(one: Array, other: Array) -> float:
    """Linear CKA of two sets of vectors [..., width] over the same positions, the first ``POSITIONS`` of them: 1 where
    one is a rotation and a multiple of the other.

    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> round(alikeness(x, 3 * x[:, ::-1]), 6)
    1.0
    """
    flat = [a.reshape(-1, a.shape[-1])[:POSITIONS].astype(np.float64) for a in (one, other)]
    grams = [rows @ rows.T for rows in (a - a.mean(axis=0) for a in flat)]
    sizes = [float(np.linalg.norm(g)) for g in grams]
    return float((grams[0] * grams[1]).sum() / max(sizes[0] * sizes[1], 1e-300))
