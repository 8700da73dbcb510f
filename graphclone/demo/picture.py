"""Loss curves as a picture: one line an arm, readable small and in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("#1b6ca8", "#c8553d", "#5b8e3e", "#7d5ba6")  # told apart in print and by colour-blind readers
INK = "#333333"


@dataclass(frozen=True)
class Curve:
    """Held-out loss (nats a token) over training steps."""

    label: str
    steps: Sequence[int]
    losses: Sequence[float]


def draw(curves: Sequence[Curve], title: str, path: Path, *, reached: int | None = None) -> None:
    """Write a PNG. ``reached``: the step at which the first arm is where the last one ends, marked where known.

    The loss axis ends at the lowest start, so that one bad start does not flatten the rest; its value is written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=150, facecolor="white")
    for curve, colour in zip(curves, COLOURS, strict=False):
        axes.plot(curve.steps, curve.losses, color=colour, linewidth=2.2, marker="o", markersize=3.5)
        label = f"{curve.label}: {curve.losses[-1]:.2f}"
        axes.annotate(
            label, (curve.steps[-1], curve.losses[-1]), (8, 0), textcoords="offset points", color=colour, va="center"
        )
    last = curves[-1].losses[-1]
    axes.axhline(last, color=COLOURS[len(curves) - 1], linewidth=1, linestyle=":")
    if reached is not None:
        axes.plot([reached], [last], marker="o", markersize=9, fillstyle="none", color=COLOURS[0])
        axes.annotate(
            f"step {reached}", (reached, last), (-4, -16), textcoords="offset points", color=COLOURS[0], ha="right"
        )
    seen = [loss for curve in curves for loss in curve.losses]
    lowest, second = min(seen), min(curve.losses[0] for curve in curves)
    top = max(second, last) + 0.3
    axes.set_ylim(lowest - 0.3, top)
    for curve, colour in zip(curves, COLOURS, strict=False):
        if curve.losses[0] > top:
            axes.annotate(
                f"starts at {curve.losses[0]:.1f}",
                (0, top),
                (4, -12),
                textcoords="offset points",
                color=colour,
                fontsize=8,
            )
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel("training steps", color=INK)
    axes.set_ylabel("held-out loss (nats per token)", color=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.subplots_adjust(left=0.09, right=0.76, top=0.9, bottom=0.13)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
