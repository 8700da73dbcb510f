"""Records a training: losses, evaluations, and the best of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """losses[i]: what step i minimised, mean over its batch (a task's own loss in nats a token), before its update.

    evaluations: (steps done, held-out loss), the task's own loss whatever was minimised. tokens: targets trained on.
    best: the evaluation whose weights are kept where the best are. notes: what was not trained, in lines.
    """

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    best: tuple[int, float] | None = None
    taught: int = 0  # batches trained on that the teacher was run on
    notes: list[str] = field(default_factory=list)

    def evaluated(self, step: int, loss: float) -> bool:
        """Note an evaluation; whether it is the best so far. One that is not a number never is."""
        self.evaluations.append((step, loss))
        better = not math.isnan(loss) and (self.best is None or loss < self.best[1])
        if better:
            self.best = (step, loss)
        return better

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, held: dict[str, Any]) -> History:
        """The inverse of ``as_dict``, through JSON."""
        best = held["best"]
        pairs = [(int(step), float(loss)) for step, loss in held["evaluations"]]
        return cls(**{**held, "evaluations": pairs, "best": None if best is None else (int(best[0]), float(best[1]))})
