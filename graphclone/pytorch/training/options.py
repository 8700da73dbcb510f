"""Options of a training, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from graphclone.errors import GraphCloneError, InvalidTarget

PRECISIONS = ("fp32", "bf16")
KEEP = ("best", "last")


class TrainingDiverged(GraphCloneError):
    """The loss or the gradient is not a number any more; the message says at which step, and what is kept."""


def _cosine(done: float, options: TrainingOptions) -> float:
    return options.final + (1 - options.final) * 0.5 * (1 + math.cos(math.pi * done))


def _wsd(done: float, options: TrainingOptions) -> float:
    """Warm-up, stable, decay: constant, then 1 - sqrt over the last ``decay`` of the run (arXiv 2405.18392)."""
    late = max(0.0, (done - (1 - options.decay)) / options.decay) if options.decay else 0.0
    return options.final + (1 - options.final) * (1 - math.sqrt(late))


def _constant(done: float, options: TrainingOptions) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float, TrainingOptions], float]] = {
    "cosine": _cosine,
    "wsd": _wsd,
    "constant": _constant,
}
"""Share of the learning rate, by the share of the steps after warm-up that are done."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Raises InvalidTarget for what makes no run.

    steps: optimizer updates. accumulation: batches an update; batches repeat if there are fewer.
    learning_rate: at its highest; it rises over ``warmup`` (a share of the steps) and then follows ``schedule``: cosine
    (down to ``final`` times itself), wsd (constant, then down to ``final`` over the last ``decay`` share), constant.
    weight_decay: of matrices, never of gains and biases. betas: AdamW's. clip: largest norm of the whole gradient.
    task: a row of tasks.TASKS, or module:function. teacher_weight: share of the loss that imitates the teacher's
    outputs, the rest is the task's own; without a teacher all of it is. hidden_weight: of imitating the teacher's
    residual stream after each block, beside that; it falls to 0 by half the run. None: 1 where more than 30 % of
    the teacher's blocks are gone, else 0.
    precision: fp32, or bf16 for what autocast runs in it (weights stay as they are). compile: torch.compile.
    dropout: put where such models have it (see to_torch). recompute: activations inside blocks are computed again in
    the backward pass instead of kept.
    evaluate_every: steps between evaluations, 0 for none. keep: best (on the held-out batches) or last weights.
    checkpoint_every: steps between states written to disk, where a folder is given for them.
    seed: of masks, dropout and everything else that is drawn.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    final: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    evaluate_every: int = 0
    seed: int = 0
    schedule: str = "cosine"
    decay: float = 0.2
    accumulation: int = 1
    task: str = "causal-lm"
    teacher_weight: float = 1.0
    hidden_weight: float | None = None
    precision: str = "fp32"
    compile: bool = False
    recompute: bool = False
    dropout: float = 0.0
    keep: str = "last"
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or not 0 <= self.warmup <= 1 or not self.clip > 0:
            raise InvalidTarget(
                f"training takes steps >= 1, learning rate > 0, warmup in [0, 1] and clip > 0; given steps "
                f"{self.steps}, learning rate {self.learning_rate}, warmup {self.warmup}, clip {self.clip}"
            )
        shares = {
            "final": self.final, "decay": self.decay, "teacher weight": self.teacher_weight, "dropout": self.dropout
        }  # fmt: skip
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InvalidTarget(f"training takes a {name} in [0, 1]; given {share}")
        if not self.weight_decay >= 0 or self.seed < 0:
            raise InvalidTarget(
                f"training takes a weight decay >= 0 and a seed >= 0; given {self.weight_decay} and {self.seed}"
            )
        if self.accumulation < 1 or not (self.hidden_weight is None or self.hidden_weight >= 0):
            raise InvalidTarget(
                f"training takes accumulation >= 1 and a hidden weight >= 0; given {self.accumulation} and "
                f"{self.hidden_weight}"
            )
        for name, chosen, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("keep", self.keep, KEEP),
        ):
            if chosen not in known:
                raise InvalidTarget(f"training: {name} {chosen!r} is not one of {', '.join(known)}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * SCHEDULES[self.schedule]((step - warm) / max(1, self.steps - warm), self)

    def hidden(self, step: int, weight: float) -> float:
        """What imitating hidden states weighs in a step, counted from 0: ``weight`` at first, 0 from half the run."""
        return weight * max(0.0, 1 - 2 * step / self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(held) if isinstance(held, tuple) else held for name, held in asdict(self).items()}
