"""How much worse a clone is than its parent before any training, on data that it was not measured on.

Three measures, the first that fits: the loss of the next token where a graph tells it; the divergence from the parent's
own distribution over a vocabulary; else how unlike the outputs lie (docs/decisions/0033). Padding does not count.

Only what a score takes of an answer is kept: ONNX Runtime's outputs lie in the memory of their run, and hold all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from graphclone import feeds
from graphclone.causality import is_causal
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.sizing.positions import Under, under_masks
from graphclone.statistics.masks import owners
from graphclone.verification.sessions import open_session

Array = np.ndarray[Any, Any]
Answer = Mapping[str, Array]
POSITIONS = 1024
WHERE = "held-out data"


class Tally(Protocol):
    """A score in the making."""

    def add(self, wanted: Any, found: Any) -> None:
        """What is held of the parent's answer to a batch, and of the answer of the model that is scored."""

    def value(self) -> float:
        """Lower is better. Raises BadData where no position counted."""


@dataclass(frozen=True)
class Measure:
    """unit: what scores are. held: what is kept of an answer to a batch, by answer and batch. tally: starts a score."""

    unit: str
    held: Callable[[Answer, Answer], Any]
    tally: Callable[[], Tally]


class Judge:
    """Holds a few batches and what a score takes of the parent's answers: for many clones, one after the other."""

    def __init__(self, parent: Model, batches: Iterable[Mapping[str, Array]], mask: str | None = None) -> None:
        """``mask``: the input that says which positions count; by default the attention mask."""
        self.batches: list[Answer] = []
        self.answers: list[Any] = []
        measure, session = None, open_session(parent)
        for fed in _filled(parent, batches):
            answer = session.run(fed)
            measure = measure or measure_of(parent, fed, answer, mask)
            self.batches.append(fed)
            self.answers.append(measure.held(answer, fed))
        if measure is None:
            raise BadData(f"{WHERE}: it is empty")
        self.measure = measure

    @property
    def unit(self) -> str:
        """What ``score`` is measured in."""
        return self.measure.unit

    def parent(self) -> float:
        """The parent's own score."""
        tally = self.measure.tally()
        for answer in self.answers:
            tally.add(answer, answer)
        return tally.value()

    def score(self, clone: Model) -> float:
        """Lower is better; infinity where no output can be compared."""
        session, tally = open_session(clone), self.measure.tally()
        for fed, answer in zip(self.batches, self.answers, strict=True):
            tally.add(answer, self.measure.held(session.run(fed), fed))
        return tally.value()


def scores(
    parent: Model, others: Sequence[Model], batches: Iterable[Mapping[str, Array]], mask: str | None = None
) -> tuple[str, list[float]]:
    """The unit, and the scores of the parent and of others, as ``Judge`` has them: of all models side by side, a batch
    at a time, for data that is larger than memory."""
    measure: Measure | None = None
    tallies: list[Tally] = []
    sessions = [open_session(model, beside=True) for model in (parent, *others)]
    for fed in _filled(parent, batches):
        answer = sessions[0].run(fed)
        measure = measure or measure_of(parent, fed, answer, mask)
        tallies = tallies or [measure.tally() for _ in sessions]
        wanted = measure.held(answer, fed)
        tallies[0].add(wanted, wanted)
        for session, tally in zip(sessions[1:], tallies[1:], strict=True):
            tally.add(wanted, measure.held(session.run(fed), fed))
    if measure is None:
        raise BadData(f"{WHERE}: it is empty")
    return measure.unit, [tally.value() for tally in tallies]


def _filled(parent: Model, batches: Iterable[Mapping[str, Array]]) -> Iterable[Answer]:
    known = feeds.inputs(parent)
    return (feeds.fill(known, batch, WHERE) for batch in batches)


def measure_of(parent: Model, fed: Answer, answer: Answer, mask: str | None = None) -> Measure:
    """The measure that fits a parent, by its answer to a batch."""
    known = feeds.inputs(parent)
    under = under_masks(parent, known, mask)
    for name, owner in owners(parent, list(answer), known).items():
        tokens = known[owner]
        if tokens.role.name != "tokens" or answer[name].shape != (*fed[owner].shape, tokens.rows):
            continue
        if is_causal(parent, owner, name):
            return _next_token(name, owner, under.get(name))
        return _divergence(name, under.get(name))
    return Measure("error", lambda answer, fed: _all_rows(answer, fed, under), Unlikeness)


@dataclass
class Mean:
    """Of the numbers that ``each`` makes of two answers."""

    each: Callable[[Any, Any], Array]
    total: float = 0.0
    count: int = 0

    def add(self, wanted: Any, found: Any) -> None:
        """See Tally."""
        numbers = self.each(wanted, found)
        self.total += float(numbers.sum())
        self.count += numbers.size

    def value(self) -> float:
        """See Tally."""
        if not self.count:
            raise BadData(f"{WHERE}: no position is left to judge by: are its masks all 0, its sequences of one token?")
        return self.total / self.count


def _next_token(logits: str, tokens: str, under: Under | None) -> Measure:
    """Cross-entropy of each next token, in nats, where it and the token before it count."""

    def losses(answer: Answer, fed: Answer) -> Array:
        ids = fed[tokens]
        kept = np.ones(ids.shape, bool) if under is None else under.kept(answer[logits].shape, fed)
        told = kept[:, :-1] & kept[:, 1:]
        # a sequence at a time: in float64 the logits of a batch are large
        each = [
            -np.take_along_axis(log_softmax(row[:-1][seen]), after[1:][seen][:, None], axis=-1)[:, 0]
            for row, after, seen in zip(answer[logits], ids, told, strict=True)
        ]
        return np.concatenate(each)

    return Measure("loss", losses, lambda: Mean(lambda wanted, found: np.asarray(found)))


def _divergence(logits: str, under: Under | None) -> Measure:
    """Kullback-Leibler, in nats, of the model's distribution at each position from the parent's."""

    def apart(wanted: Array, found: Array) -> Array:
        return np.array([_divergent(log_softmax(a), log_softmax(b)) for a, b in zip(wanted, found, strict=True)])

    return Measure("divergence", lambda answer, fed: Rows.of(answer[logits], under, fed).values, lambda: Mean(apart))


def log_softmax(logits: Array) -> Array:
    """In float64, along the last axis."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _divergent(wanted: Array, found: Array) -> float:
    return float((np.exp(wanted) * (wanted - found)).sum())


@dataclass(frozen=True)
class Rows:
    """One vector a position that counts, the first ``POSITIONS``. lead: the output's sizes along its other axes."""

    lead: tuple[int, ...]
    values: Array

    @classmethod
    def of(cls, output: Array, under: Under | None, fed: Answer) -> Rows:
        """A copy."""
        flat = output.reshape(-1, output.shape[-1])
        kept = np.arange(len(flat)) if under is None else np.flatnonzero(under.kept(output.shape, fed))
        return cls(output.shape[:-1], flat[kept[:POSITIONS]])


def _all_rows(answer: Answer, fed: Answer, under: Mapping[str, Under]) -> dict[str, Rows]:
    vectors = {name: array for name, array in answer.items() if array.ndim > 1 and array.dtype.kind in "fV"}
    return {name: Rows.of(array, under.get(name), fed) for name, array in vectors.items()}


@dataclass
class Unlikeness:
    """1 - linear CKA of each output over its positions (Kornblith et al. 2019, arXiv 1905.00414), which asks for no
    equal width, so that hidden states of a narrower clone are judged too. Batches of few positions are taken together.
    """

    waiting: dict[str, list[tuple[Array, Array]]] = field(default_factory=dict)
    totals: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, wanted: Mapping[str, Rows], found: Mapping[str, Rows]) -> None:
        """See Tally."""
        for name, rows in wanted.items():
            if name in found and found[name].lead == rows.lead:
                held = self.waiting.setdefault(name, [])
                held.append((rows.values, found[name].values))
                if sum(len(one) for one, _ in held) >= POSITIONS:
                    self._compare(name)

    def _compare(self, name: str) -> None:
        one, other = (np.concatenate(rows) for rows in zip(*self.waiting.pop(name), strict=True))
        if len(one) > 1:  # one position is like any other
            count = min(len(one), POSITIONS)
            total, before = self.totals.get(name, (0.0, 0))
            self.totals[name] = (total + count * (1.0 - alikeness(one, other)), before + count)

    def value(self) -> float:
        """See Tally; infinity where no output can be compared."""
        if not self.waiting and not self.totals:
            return float("inf")
        for name in tuple(self.waiting):
            self._compare(name)
        if not self.totals:
            raise BadData(f"{WHERE}: fewer than two positions are left to judge by: give more, or masks that keep some")
        return float(np.mean([total / count for total, count in self.totals.values()]))


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
