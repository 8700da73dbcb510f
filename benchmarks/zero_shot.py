"""Loss right after the cut, before any training: SmolLM2-135M on text it was not measured on, method by method.

    python -m benchmarks.zero_shot               every shape and method, on quiet cores: about twenty minutes
    python -m benchmarks.zero_shot --quick       one shape, three methods, few batches: does it run?
    python -m benchmarks.zero_shot --draw        the picture anew, of the results as they are

Calibration and held-out batches are of Python's language reference, in turns, never the same. Prints a table, writes
benchmarks/results/zero_shot.json and docs/images/zero_shot.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import models
from graphclone import outputs, pipeline
from graphclone.anatomy.parts import Anatomy
from graphclone.demo.evaluation import loss
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.statistics import request, run
from graphclone.statistics.store import Statistics

RESULTS = Path(__file__).parent / "results" / "zero_shot.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "zero_shot.png"
LENGTH, BATCH = 128, 8
MEASURED, AGAIN, HELD_OUT, APART = 64, 40, 6, 10  # batches, of them in the second pass; every tenth may be held out
THREADS = 2


@dataclass(frozen=True)
class Arm:
    """One way to choose and correct. depth: which blocks stay; only: needs blocks to go, or the stream to be cut."""

    name: str
    importance: str
    method: str
    depth: str = "paper"
    only: str = ""


BEST = "norm-gain+least-squares"
ARMS = (
    Arm("random", "random:1", "none"),
    Arm("first", "first", "none"),
    Arm("paper", "paper", "paper"),
    Arm("paper, unscaled", "paper", "none"),
    Arm("paper ranking, norm-gain", "paper", "norm-gain", only="hidden"),
    Arm("equal vote", "equal-vote", "none"),
    Arm("equal vote, paper", "equal-vote", "paper"),
    Arm("equal vote, paper, least-squares", "equal-vote", "paper+least-squares"),
    Arm("equal vote, norm-gain", "equal-vote", "norm-gain", only="hidden"),
    Arm("equal vote, least-squares", "equal-vote", "least-squares"),
    Arm("best: equal vote, norm-gain, least-squares", "equal-vote", BEST, only="hidden"),
    Arm("best, depth-patch", "equal-vote", f"{BEST}+depth-patch", only="layers"),
    Arm("best, read-in", "equal-vote", f"{BEST}+read-in", only="hidden"),
    Arm("best, read-in, depth-patch", "equal-vote", f"{BEST}+read-in+depth-patch", only="layers"),
    Arm("pca", "equal-vote", "pca", only="hidden"),
    Arm("pca, least-squares", "equal-vote", "pca+least-squares", only="hidden"),
    Arm("best, blocks at a stride", "equal-vote", BEST, "uniform", only="layers"),
    Arm("best, blocks by influence", "equal-vote", BEST, "block-influence", only="layers"),
)
QUICK = ("paper", "equal vote, norm-gain", "best, read-in, depth-patch")
SHAPES = {
    "hidden 384, 6/2 heads, FFN 1024, 20 layers": Target(hidden=384, heads=6, kv_heads=2, ffn=1024, layers=20),
    "hidden 384, 6/2 heads, FFN 1024, 30 layers": Target(hidden=384, heads=6, kv_heads=2, ffn=1024),
    "FFN 768, 6/2 heads": Target(heads=6, kv_heads=2, ffn=768),
    "hidden 192, 3/1 heads, FFN 512, 10 layers": Target(hidden=192, heads=3, kv_heads=1, ffn=512, layers=10),
}


@dataclass(frozen=True)
class All:
    """A plan as the second pass sees it, for all passes that take one: those that exclude each other too."""

    keep: Mapping[str, tuple[int, ...]]
    drop_blocks: Mapping[str, tuple[int, ...]]
    drop_feed_forward: Mapping[str, tuple[int, ...]]
    method: str = "pca+depth-patch+read-in"


@dataclass
class Setting:
    """The parent, what was measured on it, and what clones are judged on. work: where statistics are kept
    between runs. again: what was measured once more, by what is kept."""

    parent: Model
    anatomy: Anatomy
    statistics: Statistics
    batches: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    work: Path | None = None
    again: dict[str, Statistics] = field(default_factory=dict)

    def second_pass(self, plan: Plan) -> Statistics | None:
        """Where the plan's method takes one; of what is kept in two arms once."""
        if not pipeline.takes_second_pass(self.anatomy, plan):
            return None
        kept = repr((sorted(plan.keep.items()), sorted(plan.drop_blocks.items())))
        if kept not in self.again:
            self.again.clear()  # the arms of a shape follow each other
            name = f"second-{hashlib.sha256(kept.encode()).hexdigest()[:12]}.safetensors"
            self.again[kept] = held(self.work, name, lambda: self._measured_again(plan))
        return self.again[kept]

    def _measured_again(self, plan: Plan) -> Statistics:
        both = All(plan.keep, plan.drop_blocks, plan.drop_feed_forward)
        return run.measure_kept(self.parent, self.anatomy, both, self.batches[:AGAIN], threads=THREADS)


def held(work: Path | None, name: str, make: Callable[[], Statistics]) -> Statistics:
    """Statistics of an earlier run in the same folder, or made now and kept there."""
    if work is None:
        return make()
    if not (work / name).exists():
        work.mkdir(parents=True, exist_ok=True)
        make().save(work / name)
    return Statistics.read(work / name)


def setting(measured: int, held_out: int, work: Path | None) -> Setting:
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
    chosen = [others[k] for k in order]
    statistics = held(
        work,
        "first.safetensors",
        lambda: pipeline.measure(parent, chosen, anatomy=anatomy, moments=True, threads=THREADS),
    )
    return Setting(parent, anatomy, statistics, chosen, judged, work)


def row(held: Setting, shape: str, arm: Arm) -> dict[str, Any]:
    """One clone, judged."""
    plan = pipeline.plan(
        held.anatomy,
        held.statistics,
        SHAPES[shape],
        importance=arm.importance,
        method=arm.method,
        depth=arm.depth,
        weights=held.parent.constants(),
    )
    again = held.second_pass(plan)
    start = time.perf_counter()
    clone = pipeline.clone(held.parent, plan, held.statistics, anatomy=held.anatomy, affine=again)
    seconds = time.perf_counter() - start
    parameters = pipeline.inspect(clone).parameters
    return {
        "shape": shape,
        "name": arm.name,
        "importance": arm.importance,
        "method": arm.method,
        "depth": arm.depth,
        "parameters": parameters,
        "loss": loss(clone, held.held_out),
        "seconds": round(seconds, 2),
    }


def arms(shape: str) -> list[Arm]:
    """Those that differ from the others where a shape leaves the stream or the blocks whole."""
    return [arm for arm in ARMS if not arm.only or getattr(SHAPES[shape], arm.only)]


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
        axes.set_title(
            f"{shape} ({min(r['parameters'] for r in held) / 1e6:.1f}M parameters; untied by pca, more)",
            fontsize=10,
            loc="left",
        )
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
    parser.add_argument("--quick", action="store_true", help="one shape, three methods, few batches: does it run?")
    parser.add_argument("--draw", action="store_true", help="table and picture anew, of the results as they are")
    parser.add_argument("--work", type=Path, help="a folder: a run that was stopped goes on with what is in it")
    asked = parser.parse_args()
    if asked.draw:
        held = json.loads(RESULTS.read_text())
        print(table(held["rows"]))
        return draw(held["rows"], held["parent"], PICTURE)
    quick = asked.quick
    held = setting(6 if quick else MEASURED, 1 if quick else HELD_OUT, None if quick else asked.work)
    parent = loss(held.parent, held.held_out)
    say(f"parent: {parent:.3f}")
    rows: list[dict[str, Any]] = []
    done = asked.work / "rows.json" if asked.work and not quick else None
    if done is not None and done.exists():
        rows = json.loads(done.read_text())
    for shape in list(SHAPES)[-1:] if quick else SHAPES:
        for arm in arms(shape):
            known = any((r["shape"], r["name"]) == (shape, arm.name) for r in rows)
            if not known and (not quick or arm.name in QUICK):
                rows.append(row(held, shape, arm))
                if done is not None:
                    done.write_text(json.dumps(rows))
                say(f"{shape} | {arm.name}: {rows[-1]['loss']:.3f} ({rows[-1]['seconds']} s)")
        if not quick:
            record(rows, parent)
    print(table(rows))


def say(text: str) -> None:
    """At once, in a pipe too."""
    print(text, flush=True)


def record(rows: list[dict[str, Any]], parent: float) -> None:
    """The results so far, and their picture."""
    tokens = {"measured tokens": MEASURED * BATCH * LENGTH, "tokens in the second pass": AGAIN * BATCH * LENGTH}
    judged = HELD_OUT * BATCH * LENGTH
    about = {"parent": parent, **tokens, "held-out tokens": judged, "machine": platform.machine(), "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    with outputs.staged(RESULTS) as draft:
        draft.write_text(json.dumps(about, indent=1) + "\n")
    draw(rows, parent, PICTURE)


if __name__ == "__main__":
    main()
