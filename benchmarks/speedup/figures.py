"""The pictures of an experiment: losses at the ends of horizons, losses by learning rate, levers one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speedup.arithmetic import Interval
from benchmarks.speedup.claims import Tested
from benchmarks.speedup.config import Config
from benchmarks.speedup.findings import PAPER, PAPERS, Finding

NOTHING = "#7f7f7f"
COLOURS = {"random": NOTHING, "random-warm": "#4f4f4f", PAPER: "#d17a22", PAPERS[-1]: "#e8b27d", "default": "#1b6ca8"}
OTHER = "#b9c9d6"


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figure, (axes,) = _panels(width, height, 1)
    return figure, axes


def _panels(width: float, height: float, count: int) -> tuple[Any, list[Any]]:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "graphclone"  # the same picture, the same bytes
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, count, figsize=(width, height), dpi=130, facecolor="white", squeeze=False)
    for axes in panels[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, list(panels[0])


def _steps(axes: Any) -> None:
    from matplotlib.ticker import ScalarFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _named(axes: Any, ends: Sequence[tuple[float, float, str]], gap: float) -> None:
    """Names beside the ends of lines, pushed apart where they would lie on each other. gap: share of the height."""
    low, high = axes.get_ylim()
    last: dict[float, float] = {}
    for x, y, name in sorted(ends, key=lambda end: end[1]):
        last[x] = max(y, last.get(x, low) + gap * (high - low))
        axes.text(x * 1.03, last[x], name, fontsize=6, color="#5b6b78", va="center")


def horizons(config: Config, found: dict[str, Finding], score: str, path: Path) -> None:
    """The mean loss at the end of each horizon; of the main arms every seed's as well, faint. Dotted: where the start
    from nothing ends."""
    figure, axes = _axes(8, 4.6)
    named = []
    for name, one in found.items():
        colour = COLOURS.get(name, OTHER)
        ends = sorted({h for curve in one.curves.values() for h in curve.ends})
        means = [held for h in ends if (held := one.end(h)) is not None]
        if name not in COLOURS:
            axes.plot(ends, means, color=colour, marker=".", linewidth=1, zorder=1)
            named += [(ends[-1], means[-1], name)] if ends else []
            continue
        for curve in one.curves.values():
            axes.plot(*zip(*sorted(curve.ends.items()), strict=True), color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(ends, means, color=colour, marker="o", linewidth=2, label=name)
    if config.nothing in found and (level := found[config.nothing].end(config.budget)) is not None:
        axes.axhline(level, color=NOTHING, linestyle=":", linewidth=1)
    _steps(axes)
    _named(axes, named, 0.024)
    axes.set_xlabel("steps of a run, each with its own decay", fontsize=9)
    axes.set_ylabel(f"held-out loss, {score}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def rates(config: Config, found: dict[str, Finding], score: str, path: Path) -> None:
    """The loss that each arm was tuned by, by its learning rate."""
    figure, axes = _axes(8, 3.6)
    named: list[tuple[float, float, str]] = []
    for name, one in found.items():
        if one.arm.schedule != "wsd":
            continue  # it takes another's
        first = next(iter(one.tried))[1]
        held = sorted((rate, loss) for (rate, decay), loss in one.tried.items() if decay == first)
        late = one.arm.nothing or one.arm.long
        label = f"{name}, after {config.budget}" if late else name if name in COLOURS else None
        colour = COLOURS.get(name, OTHER)
        if label is None:
            named.append((*held[-1], name))
        axes.plot([r for r, _ in held], [v for _, v in held], color=colour, marker=".", label=label)
        axes.plot([one.rate], [one.tried[one.rate, one.decay]], color=colour, marker="o")
    axes.set_xscale("log")
    tried = sorted({rate for one in found.values() for rate, _ in one.tried})
    axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
    axes.minorticks_off()
    _named(axes, named, 0.03)
    axes.set_xlabel("learning rate (round: chosen, at its weight decay)", fontsize=9)
    axes.set_ylabel(f"loss after {config.steps(config.tuned_at)} steps, {score}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def levers(rows: list[tuple[Finding, Interval]], path: Path) -> None:
    """How many times sooner each arm is than the one that it differs from by one thing."""
    rows = [row for row in rows if row[1].bound != "?"]  # of which nothing is known
    figure, axes = _axes(8, 0.9 + 0.32 * len(rows))
    for k, (_, sooner) in enumerate(reversed(rows)):
        colour = "#1b6ca8" if sooner.low > 1 else "#b5482a" if sooner.high < 1 else "#7f7f7f"
        if sooner.bound:  # an arrow from the end of the interval that is sure
            sure, marker = (sooner.low, ">") if sooner.bound == ">" else (sooner.high, "<")
            axes.plot([sure], [k], color=colour, marker=marker, markersize=8)
            continue
        axes.plot([sooner.low, sooner.high], [k, k], color=colour, linewidth=2)
        axes.plot([sooner.mean], [k], color=colour, marker="o")
    names = [f"{one.arm.name} against {one.arm.against}" for one, _ in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.axvline(1.0, color="#333333", linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("times sooner at the loss of the random start (arrows: at least, at most)", fontsize=9)
    _save(figure, path)


def claims(rows: list[Tested], score: str, path: Path) -> None:
    """One panel a claim: the arm that should be ahead, and the one that should not, seed by seed and on average."""
    figure, panels = _panels(3.1 * len(rows), 3.1, len(rows))
    for axes, row in zip(panels, rows, strict=True):
        for one, colour in ((row.ahead, COLOURS[PAPER]), (row.behind, "#1b6ca8")):
            for curve in one.curves.values():
                axes.plot(*zip(*sorted(curve.ends.items()), strict=True), color=colour, alpha=0.25, linewidth=0.8)
            ends = sorted({h for curve in one.curves.values() for h in curve.ends})
            axes.plot(ends, [one.end(h) for h in ends], color=colour, marker=".", label=one.arm.name)
        _steps(axes)
        axes.set_title(f"{row.claim.short}: the claim {row.verdict}", fontsize=8)
        axes.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel(score, fontsize=8)
    panels[0].set_xlabel("steps, each run with its own decay", fontsize=8)
    _save(figure, path)
