"""What the demo measured: as a table, as JSON, as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphclone.demo.picture import Curve, draw


@dataclass(frozen=True)
class Arm:
    """One model of the comparison. Losses are held-out, in nats a token; latency in seconds for one batch."""

    name: str
    parameters: int
    size: int  # bytes of the file
    latency: float
    loss_before: float
    loss_after: float | None = None
    learning_rate: float | None = None
    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Results:
    """``loss_in_runtime``: of the trained clone, written back and run in ONNX Runtime. ``seconds``: by stage."""

    parent: Arm
    clone: Arm
    twin: Arm
    loss_in_runtime: float
    tokens_a_step: int
    seconds: dict[str, float]

    @property
    def reached(self) -> int | None:
        """The step by which the clone is where its twin ends, interpolated; None where it does not get there."""
        assert self.twin.loss_after is not None
        return crossing(self.clone.steps, self.clone.losses, self.twin.loss_after)

    def rows(self) -> list[tuple[object, ...]]:
        """One row a model, as ``HEAD`` names the columns."""
        return [
            (arm.name, arm.parameters, arm.size, f"{1e3 * arm.latency:.0f} ms", arm.loss_before, arm.loss_after)
            for arm in (self.parent, self.clone, self.twin)
        ]

    def sentences(self) -> list[str]:
        """What the table does not say."""
        last = self.twin.steps[-1]
        clone = f"the clone passes its twin's final loss at step {self.reached} of {last}"
        said = clone if self.reached is not None else f"in {last} steps the clone does not reach its twin's final loss"
        tokens = self.tokens_a_step * last
        return [
            f"{said} ({tokens:,} tokens, {tokens / self.clone.parameters:.3f} a parameter)",
            f"trained clone: loss {self.clone.loss_after:.4f} in PyTorch, {self.loss_in_runtime:.4f} in ONNX Runtime",
            "seconds: " + ", ".join(f"{stage} {taken:.0f}" for stage, taken in self.seconds.items()),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"reached": self.reached}

    def save(self, folder: Path) -> None:
        """``results.json`` and ``loss.png``."""
        held = self.as_dict()
        (folder / "results.json").write_text(json.dumps(held, indent=1) + "\n")
        curves = [Curve(arm.name, arm.steps, arm.losses) for arm in (self.clone, self.twin)]
        title = f"SmolLM2-135M cut to {self.clone.parameters / 1e6:.1f}M parameters, trained on Python's documentation"
        draw(curves, title, folder / "loss.png", reached=self.reached)


HEAD = ("model", "parameters", "bytes", "latency", "loss before", "loss after training")


def crossing(steps: Sequence[int], losses: Sequence[float], level: float) -> int | None:
    """The first step at which a curve is at or below ``level``, between its points on a straight line.

    >>> crossing([0, 10, 20], [9.0, 6.0, 4.0], 5.0)
    15
    """
    for i, loss in enumerate(losses):
        if loss <= level:
            if i == 0:
                return steps[0]
            share = (losses[i - 1] - level) / (losses[i - 1] - loss)
            return round(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return None
