"""What a page shows, as plain values: gathered from files by the rest of this room, drawn by charts and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Timing:
    """Seconds of one run in ONNX Runtime, median and quartiles; ``length`` of the sequences, None for a fixed graph.

    ``ratio``: the same over the parent's, taken round by round.
    """

    length: int | None
    median: float
    low: float
    high: float
    ratio: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Sheet:
    """A line of the table of models. ``loss`` is held out, in ``unit``; None where it was not measured."""

    name: str
    role: str  # parent, clone, trained
    parameters: int
    bytes: int
    shapes: Sequence[Mapping[str, Any]] = ()  # a stack each, by the names that targets use
    sha256: str = ""
    timings: tuple[Timing, ...] = ()
    memory: int | None = None  # bytes that its process grew by
    loss: float | None = None
    unit: str = "loss"


@dataclass(frozen=True)
class Part:
    """Heads or feed-forward neurons of one block, and how many of them a clone keeps."""

    stack: str
    block: int
    kind: str  # attention, feed-forward
    found: int
    kept: int
    share: float | None = None  # of the importance that was found, what is kept


@dataclass(frozen=True)
class Map:
    """Importance by layer and neuron. ``rows``: label -> scores by neuron, in the order they are drawn.

    ``falling``: each row is in its own order, highest first; else all rows share one, highest sum first.
    ``cuts``: clone -> neurons kept of each row, None where the clone has no such row.
    """

    name: str
    what: str
    neurons: str
    rows: Mapping[str, Array]
    falling: bool
    cuts: Mapping[str, Sequence[int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Influence:
    """How much a block changes the stream it reads: 1 - E[cos(entry, exit)]."""

    stack: str
    block: int
    value: float


@dataclass(frozen=True)
class Curve:
    """Training of one arm: (step, held-out loss), and the loss of each step's batch."""

    label: str
    held_out: Sequence[tuple[int, float]]
    losses: Sequence[float] = ()


@dataclass(frozen=True)
class Verdict:
    """A row of the table of checks."""

    name: str
    verdict: str  # passed, failed, not applicable
    detail: str
    value: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Kept:
    """What a clone kept of one kind of neurons: groups of that kind, and neurons in all of them."""

    kind: str
    groups: int
    found: int
    kept: int


@dataclass(frozen=True)
class CloneFacts:
    """All that is told of one clone. ``dropped``: stack -> blocks left out; ``plan``: its JSON."""

    name: str
    sheets: tuple[Sheet, ...]
    parts: tuple[Part, ...] = ()
    kept: tuple[Kept, ...] = ()
    dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    repeated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    method: str = ""
    importance: str = ""
    plan: str = ""
    checks: tuple[Verdict, ...] = ()
    curves: tuple[Curve, ...] = ()
    gates: tuple[Verdict, ...] = ()
    problem: str = ""  # why there is no such clone


@dataclass(frozen=True)
class StackFacts:
    """One stack of the parent: ``kinds`` lists each kind of block, its parts in order, and how many blocks are so."""

    name: str
    hidden: int
    blocks: int
    kinds: tuple[tuple[tuple[str, ...], int], ...]
    around: tuple[str, ...] = ()  # norms outside the blocks


@dataclass(frozen=True)
class Facts:
    """A whole page."""

    title: str
    parent: Sheet
    stacks: tuple[StackFacts, ...]
    cuttable: tuple[tuple[str, int, int, int], ...]  # kind, groups, neurons each, axes each
    pinned: tuple[tuple[str, str, int, str], ...]  # group, kind, neurons, why
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    scored_by: str = ""
    measured: str = ""
    maps: tuple[Map, ...] = ()
    influence: tuple[Influence, ...] = ()
    clones: tuple[CloneFacts, ...] = ()
    commands: tuple[str, ...] = ()
    settings: str = ""  # the recipe in effect, as JSON
    timed_on: str = ""
    version: str = ""
