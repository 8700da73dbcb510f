"""Loss right after the cut, before any training: SmolLM2-135M on text it was not measured on, method by method.

    python -m benchmarks.zero_shot               every shape and method, on quiet cores: about fifteen minutes
    python -m benchmarks.zero_shot --quick       one shape, three methods, few batches: does it run?

Calibration and held-out batches are of Python's language reference, in turns, never the same. Prints a table, writes
benchmarks/results/zero_shot.json and docs/images/zero_shot.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import models
from graphclone import outputs, pipeline
from graphclone.anatomy.parts import Anatomy
from graphclone.demo.evaluation import loss
from graphclone.graph import Model
from graphclone.planner import Target
from graphclone.statistics import request
from graphclone.statistics.store import Statistics

RESULTS = Path(__file__).parent / "results" / "zero_shot.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "zero_shot.png"
LENGTH, BATCH = 128, 8
MEASURED, HELD_OUT, APART = 40, 6, 10  # batches; every tenth may be held out


@dataclass(frozen=True)
class Arm:
    """One way to choose and correct."""

    name: str
    importance: str
    method: str
    depth: str = "paper"


ARMS = (
    Arm("random", "random:1", "none"),
    Arm("first", "first", "none"),
    Arm("paper", "paper", "paper"),
    Arm("paper, unscaled", "paper", "none"),
    Arm("paper ranking, norm-gain", "paper", "norm-gain"),
    Arm("equal vote", "equal-vote", "none"),
    Arm("equal vote, paper scaling", "equal-vote", "paper"),
    Arm("equal vote, norm-gain", "equal-vote", "norm-gain"),
    Arm("equal vote, least-squares", "equal-vote", "least-squares"),
    Arm("equal vote, norm-gain, least-squares", "equal-vote", "norm-gain+least-squares"),
    Arm("the same, blocks at a stride", "equal-vote", "norm-gain+least-squares", "uniform"),
    Arm("the same, blocks by influence", "equal-vote", "norm-gain+least-squares", "block-influence"),
)
QUICK = (ARMS[2], ARMS[7], ARMS[9])
SHAPES = {
    "hidden 384, 6/2 heads, FFN 1024, 20 layers": Target(hidden=384, heads=6, kv_heads=2, ffn=1024, layers=20),
    "hidden 384, 6/2 heads, FFN 1024, 30 layers": Target(hidden=384, heads=6, kv_heads=2, ffn=1024),
    "FFN 768, 6/2 heads": Target(heads=6, kv_heads=2, ffn=768),
    "hidden 192, 3/1 heads, FFN 512, 10 layers": Target(hidden=192, heads=3, kv_heads=1, ffn=512, layers=10),
}


@dataclass(frozen=True)
class Setting:
    """The parent, what was measured on it, and what clones are judged on."""

    parent: Model
    anatomy: Anatomy
    statistics: Statistics
    held_out: list[dict[str, Any]]


def setting(measured: int, held_out: int, say: Callable[[str], None]) -> Setting:
    """Build, read and measure."""
    file = models.cached("smollm2", progress=say)
    parent = pipeline.load(file)
    anatomy = pipeline.inspect(parent)
    asked = request.Calibration("python-docs", str(models.tokenizer_beside(file)), LENGTH, BATCH)
    batches = [b for b in request.open_data(parent, asked) if len(b["input_ids"]) == BATCH]
    judged = batches[APART - 1 :: APART][:held_out]
    others = [b for k, b in enumerate(batches) if k % APART != APART - 1]
    order = np.random.default_rng(0).permutation(len(others))[:measured]
    say(f"measuring {measured * BATCH * LENGTH:,} tokens")
    statistics = pipeline.measure(parent, [others[k] for k in order], anatomy=anatomy, moments=True)
    return Setting(parent, anatomy, statistics, judged)


def row(held: Setting, shape: str, arm: Arm) -> dict[str, Any]:
    """One clone, judged."""
    start = time.perf_counter()
    plan = pipeline.plan(
        held.anatomy,
        held.statistics,
        SHAPES[shape],
        importance=arm.importance,
        method=arm.method,
        depth=arm.depth if SHAPES[shape].layers else "paper",
        weights=held.parent.constants(),
    )
    clone = pipeline.clone(held.parent, plan, held.statistics, anatomy=held.anatomy)
    seconds = time.perf_counter() - start
    parameters = pipeline.inspect(clone).parameters
    return {
        "shape": shape,
        **asdict(arm),
        "parameters": parameters,
        "loss": loss(clone, held.held_out),
        "seconds": round(seconds, 2),
    }


def draw(rows: list[dict[str, Any]], parent: float, path: Path) -> None:
    """Bars, one panel a shape."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    figure, panels = plt.subplots(
        len(shapes), 1, figsize=(9, 0.6 + 2.7 * len(shapes)), dpi=130, facecolor="white", squeeze=False
    )
    for axes, shape in zip(panels[:, 0], shapes, strict=True):
        held = [r for r in rows if r["shape"] == shape][::-1]
        best = min(r["loss"] for r in held)
        colours = ["#1b6ca8" if r["loss"] == best else "#9db8cc" for r in held]
        axes.barh([r["name"] for r in held], [r["loss"] for r in held], color=colours)
        for k, r in enumerate(held):
            axes.text(r["loss"], k, f" {r['loss']:.2f}", va="center", fontsize=8)
        axes.axvline(parent, color="#333333", linewidth=1, linestyle=":")
        axes.set_title(f"{shape} ({held[0]['parameters'] / 1e6:.1f}M parameters)", fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel(f"held-out loss before training, nats a token (dotted: the parent, {parent:.2f})")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line an arm, a column a shape."""
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    names = list(dict.fromkeys(r["name"] for r in rows))
    held = {(r["name"], r["shape"]): r["loss"] for r in rows}
    lines = [f"| method | {' | '.join(shapes)} |", f"|---|{'---|' * len(shapes)}"]
    for name in names:
        cells = [f"{held[name, shape]:.2f}" if (name, shape) in held else "" for shape in shapes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape, three methods, few batches")
    quick = parser.parse_args().quick
    held = setting(6 if quick else MEASURED, 1 if quick else HELD_OUT, print)
    parent = loss(held.parent, held.held_out)
    print(f"parent: {parent:.3f}", flush=True)
    rows = []
    for shape in list(SHAPES)[-1:] if quick else SHAPES:
        for arm in QUICK if quick else ARMS:
            if arm.depth == "paper" or SHAPES[shape].layers:
                rows.append(row(held, shape, arm))
                print(f"{shape} | {arm.name}: {rows[-1]['loss']:.3f} ({rows[-1]['seconds']} s)", flush=True)
    print(table(rows))
    if not quick:
        tokens = MEASURED * BATCH * LENGTH
        about = {"parent": parent, "measured tokens": tokens, "machine": platform.machine(), "rows": rows}
        RESULTS.parent.mkdir(exist_ok=True)
        with outputs.staged(RESULTS) as draft:
            draft.write_text(json.dumps(about, indent=1) + "\n")
        draw(rows, parent, PICTURE)


if __name__ == "__main__":
    main()
