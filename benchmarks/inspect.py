"""How long `graphclone inspect` takes on a large model, and how much memory: weights stay on disk, untouched.

    python -m benchmarks.inspect             8B parameters, 32 layers, 16 GB of external data (a sparse file)
    python -m benchmarks.inspect --size 1B

`--json` prints the fingerprint as well, for which every byte of the weights is read. Prints a table; writes
benchmarks/results/inspect.json with --write.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import llama_graph, processes
from graphclone import outputs
from graphclone.cli import show

RESULTS = Path(__file__).parent / "results" / "inspect.json"
SECONDS, MEMORY = 10.0, 500 << 20
REPEATS = 3


def measure(size: str, folder: Path) -> dict[str, Any]:
    """Wall seconds (median) and peak memory of the command, beside those of a command that opens nothing."""
    model = folder / "model.onnx"
    weights = llama_graph.write(llama_graph.SIZES[size], model, seed=None)
    graphclone = [sys.executable, "-m", "graphclone"]
    ways = {
        "--version": [*graphclone, "--version"],
        "inspect": [*graphclone, "inspect", str(model)],
        "inspect --json": [*graphclone, "inspect", str(model), "--json"],
    }
    rows: list[dict[str, Any]] = []
    for name, command in ways.items():
        runs = [processes.run(command) for _ in range(REPEATS)]
        rows.append({"command": name, "seconds": median(r.seconds for r in runs), "peak": max(r.peak for r in runs)})
    (seen,) = [row for row in rows if row["command"] == "inspect"]
    return {
        "machine": processes.machine(),
        "model": {"size": size, "weights": weights},
        "commands": rows,
        "limits": {"seconds": SECONDS, "peak": MEMORY},
        "met": seen["seconds"] < SECONDS and seen["peak"] < MEMORY,
    }


def main() -> int:
    """Exit code 1 where a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(llama_graph.SIZES), default="8B")
    parser.add_argument("--folder", type=Path, help="where the model is written, and removed again")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--write", action="store_true", help=f"keep them in {RESULTS.name}")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found = measure(asked.size, Path(folder))
    if asked.write:
        RESULTS.parent.mkdir(exist_ok=True)
        with outputs.staged(RESULTS) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n")
    if asked.json:
        show.as_json(found)
    else:
        print(f"{found['model']['size']}: {found['model']['weights']:,} bytes of weights\n")
        rows = [(r["command"], f"{r['seconds']:.2f}", f"{r['peak'] / 2**20:,.0f}") for r in found["commands"]]
        show.table(("command", "seconds", "peak MB"), [*rows, ("limits", f"{SECONDS:.0f}", f"{MEMORY >> 20}")])
    return int(not found["met"])


if __name__ == "__main__":
    sys.exit(main())
