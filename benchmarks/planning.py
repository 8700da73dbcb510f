"""What `plan` says of a clone, beside what the clone then is: parameters, bytes, and how long a run takes.

    python -m benchmarks.planning                 three trained parents, two shapes each, and one above 1 GB
    python -m benchmarks.planning --quick         seeded ones: does it run?

A latency is predicted twice, as `plan` does for clones that fit (the clone itself is timed, in memory) and as it does
for larger ones (some blocks of each shape are). The clone is then written, opened and timed, in turns with the
predictions: each is compared with the clone as it was timed right after it, and the median of these counts.
Prints a table; writes benchmarks/results/planning.json with --write. Exit code 1 where a number is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import models
from benchmarks import processes
from graphclone import outputs, pipeline
from graphclone.cli import show
from graphclone.sizing.clock import Clock
from graphclone.sizing.prediction import size_of
from graphclone.target import Target

RESULTS = Path(__file__).parent / "results" / "planning.json"
ALLOWED = 0.10  # of the clone's latency
ROUNDS = 5  # the machine is not always the same
HALF = Target(hidden="50%", heads="67%", ffn="50%")
SHAPES = {
    "smollm2": (
        Target(hidden=384, heads=6, kv_heads=2, ffn=1024, layers=20),
        Target(ffn="0-9:1024", layers=24),
        Target(layers=72, deeper=True),
    ),
    "minilm": (Target(hidden="50%", heads="50%", ffn="50%"), Target(layers=4)),
    "vit": (Target(hidden="50%", heads="50%", ffn="50%"), Target(ffn="50%", drop_attention="3,5")),
}
QUICK = {"llama": (HALF,), "bert": (Target(layers=2),)}


def measure(name: str, target: Target, clock: Clock, folder: Path) -> dict[str, Any]:
    """One clone: predicted and met."""
    parent = pipeline.load(models.cached(name))
    anatomy = pipeline.inspect(parent)
    plan = pipeline.plan(anatomy, None, target, importance="first")
    file = folder / "model.onnx"
    predicted = pipeline.predict(parent, plan, anatomy=anatomy)
    pipeline.save(pipeline.clone(parent, plan, anatomy=anatomy), file)
    clone = pipeline.load(file)
    rounds = [
        (clock.clone(parent, anatomy, plan), replace(clock, whole=0).clone(parent, anatomy, plan), clock.seconds(clone))
        for _ in range(ROUNDS)
    ]
    whole, blocks, met = (median(times) for times in zip(*rounds, strict=True))
    errors = [median(times[k] / times[2] for times in rounds) - 1 for k in range(2)]
    found = {"parameters": pipeline.inspect(clone).parameters, "size": size_of(clone), "latency": met}
    file.unlink()
    return {
        "parent": name,
        "target": {n: v for n, v in asdict(target).items() if v},
        "predicted": {"parameters": predicted.parameters, "size": predicted.size, "latency": whole, "blocks": blocks},
        "met": found,
        "error": dict(zip(("whole", "blocks"), errors, strict=True)),
        "exact": (predicted.parameters, predicted.size) == (found["parameters"], found["size"]),
        "rounds": rounds,
    }


def shown(rows: list[dict[str, Any]], clock: Clock) -> None:
    """The table."""
    print(f"run timed: {clock.shown}\n")
    head = ("parent", "parameters", "met", "bytes", "met", "clone timed, ms", "by blocks, ms", "met, ms", "errors, %")
    table = []
    for row in rows:
        said, met, error = row["predicted"], row["met"], row["error"]
        times = [f"{t * 1e3:.1f}" for t in (said["latency"], said["blocks"], met["latency"])]
        errors = f"{100 * error['whole']:+.1f}, {100 * error['blocks']:+.1f}"
        counts = (said["parameters"], met["parameters"], said["size"], met["size"])
        table.append((row["parent"], *counts, *times, errors))
    show.table(head, table)


def main() -> int:
    """Exit code 1 where a number is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seeded parents")
    parser.add_argument("--timed", default="1x128", metavar="BATCHxLENGTH")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--write", action="store_true", help=f"keep them in {RESULTS.name}")
    asked = parser.parse_args()
    clock = Clock.of("1x24" if asked.quick else asked.timed, "cpu", asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        cells = [(name, target) for name, targets in (QUICK if asked.quick else SHAPES).items() for target in targets]
        rows = [measure(name, target, clock, Path(folder)) for name, target in cells]
    met = all(row["exact"] and max(map(abs, row["error"].values())) <= ALLOWED for row in rows)
    if asked.write:
        RESULTS.parent.mkdir(exist_ok=True)
        with outputs.staged(RESULTS) as draft:
            draft.write_text(json.dumps({"machine": processes.machine(), "met": met, "rows": rows}, indent=1) + "\n")
    if asked.json:
        show.as_json({"met": met, "rows": rows})
    else:
        shown(rows, clock)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
