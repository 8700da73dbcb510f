"""How long a clone larger than memory takes, beside copying the bytes that have to be read and written for it.

    python -m benchmarks.surgery                   a seeded 7B float16 Llama (13.5 GB) at half its width, under 6 GB
    python -m benchmarks.surgery --size 1B --memory 1
    python -m benchmarks.surgery --size tiny --rounds 1      does it run?

Every round copies, then clones, each with the files dropped from the system's cache first. The copy is `dd`: what the
clone weighs is read, written and flushed, and what else has to be read is read. Two things may be called that: the
rows that the slices take, and the whole file, as rows lie so close together that the disk reads all of it. The first
clone reads the parent twice, as its fingerprint covers every byte and was never taken before; those after it find it
noted, as after `measure` or `plan`, and count. Prints a table; writes benchmarks/results/surgery.json with --write.
Needs free disk of twice the parent; the files are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from benchmarks import llama_graph, processes
from graphclone import outputs
from graphclone.cli import show

RESULTS = Path(__file__).parent / "results" / "surgery.json"
FACTOR = 1.5  # of copying
SPARE = 300 << 20  # bytes of memory beside the largest tensor
UNIT = 1 << 20

CLONE = """
import json, sys, time
start = time.perf_counter()
import graphclone as gc
from graphclone import saving
parent, out, method = sys.argv[1:]
stages = {}
def done(stage):
    stages[stage] = time.perf_counter() - start - sum(stages.values())
done("import")
model = gc.load(parent)
model.prepare_sha256()
anatomy = gc.inspect(model)
done("inspect")
plan = gc.plan(anatomy, None, gc.Target("50%", "50%", "50%", None, "50%"), importance="random", method=method)
done("plan, with the rest of the sha256")
made = gc.clone(model, plan, anatomy=anatomy)
done("clone")
saving.save(made, out)
done("save")
needed = 0
for tensor in made.graph.tensors().values():
    recipe = getattr(tensor, "_values", None)
    while getattr(recipe, "finish", None) is not None:
        recipe = recipe.source
    takes = getattr(recipe, "takes", None)
    if takes is not None:
        needed += recipe.source.nbytes * len(takes.get(0, range(recipe.source.shape[0]))) // recipe.source.shape[0]
print(json.dumps({"stages": stages, "read": needed}))
"""


def prepared(size: str, folder: Path) -> tuple[Path, Path, int]:
    """The parent, its weights, and the bytes of its largest tensor."""
    model = folder / "parent.onnx"
    if not model.is_file():
        llama_graph.write(llama_graph.SIZES[size], model)
    proto = onnx.load(str(model), load_external_data=False)
    lengths = [int(e.value) for t in proto.graph.initializer for e in t.external_data if e.key == "length"]
    return model, folder / "parent.onnx.weights", max(lengths)


def copied(weights: Path, read: int, written: int) -> float:
    """Seconds to read so much of a file and write so much, flushed."""
    processes.forget(weights)
    target = weights.with_name("copy")
    dd = ["dd", f"if={weights}", f"bs={16 * UNIT}", "iflag=fullblock,count_bytes,skip_bytes"]
    seconds = processes.run([*dd, f"of={target}", f"count={written}", "conv=fsync"]).seconds
    if read > written:
        rest = read - written
        seconds += processes.run([*dd, "of=/dev/null", f"skip={written}", f"count={rest}"]).seconds
    target.unlink()
    return seconds


def one_round(model: Path, weights: Path, method: str, limit: processes.Limit, first: dict[str, Any]) -> dict[str, Any]:
    """A clone under the limit and, when it is known what it reads and writes, the copies beside it."""
    out = model.with_name("clone.onnx")
    processes.forget(model, weights)
    run = processes.run([sys.executable, "-c", CLONE, str(model), str(out), method], limit)
    told = json.loads(run.output.strip().splitlines()[-1])
    written = sum(file.stat().st_size for file in out.parent.glob("clone.onnx*"))
    for file in out.parent.glob("clone.onnx*"):
        file.unlink()
    read = first.get("read", told["read"])
    return {
        "seconds": run.seconds,
        "peak": run.peak,
        "stages": told["stages"],
        "read": read,
        "written": written,
        "copy of the slices": copied(weights, read, written),
        "copy of the whole": copied(weights, weights.stat().st_size, written),
    }


def measure(size: str, memory: int, rounds: int, method: str, folder: Path) -> dict[str, Any]:
    """Medians over the rounds."""
    model, weights, largest = prepared(size, folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    with processes.limited(memory) as limit:
        first = one_round(model, weights, method, limit, {})
        found = [one_round(model, weights, method, limit, first) for _ in range(rounds)]
    middle = {key: median(r[key] for r in found) for key in ("seconds", "copy of the slices", "copy of the whole")}
    ratios = {key: median(r["seconds"] / r[key] for r in found) for key in middle if key != "seconds"}
    peak, allowed = max(r["peak"] for r in (first, *found)), largest + SPARE
    return {
        "machine": processes.machine(),
        "parent": {"size": size, "weights": weights.stat().st_size, "largest tensor": largest},
        "limit": {"memory": memory, "held by": limit.how},
        "method": method,
        **middle,
        "ratios": ratios,
        "read": first["read"],
        "written": found[0]["written"],
        "peak": {"bytes": peak, "limit": allowed, "met": peak <= allowed},
        "met": ratios["copy of the whole"] <= FACTOR and peak <= allowed,
        "first": first,
        "rounds": found,
    }


def shown(found: dict[str, Any]) -> None:
    """The table."""
    weights, limit = found["parent"]["weights"], found["limit"]
    print(f"parent {weights / 1e9:.1f} GB, memory limit {limit['memory'] / 1e9:.1f} GB by {limit['held by']}")
    print(f"slices take {found['read'] / 1e9:.1f} GB, the clone has {found['written'] / 1e9:.1f} GB\n")
    rows = [("clone", f"{found['seconds']:.1f}", "")]
    rows += [(key, f"{found[key]:.1f}", f"{ratio:.2f}") for key, ratio in found["ratios"].items()]
    rows += [("first clone of the parent", f"{found['first']['seconds']:.1f}", "")]
    show.table(("what", "seconds", "clone / this"), rows)
    print()
    show.table(
        ("stage of the last clone", "seconds"), [(s, f"{t:.1f}") for s, t in found["rounds"][-1]["stages"].items()]
    )
    peak = found["peak"]
    print(f"\npeak {peak['bytes'] >> 20:,} MB, at most {peak['limit'] >> 20:,} (largest tensor and {SPARE >> 20})")


def main() -> int:
    """Exit code 1 where a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(llama_graph.SIZES), default="7B")
    parser.add_argument("--memory", type=float, default=6, help="GB that the clone may use, page cache included")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="paper")
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed again")
    parser.add_argument("--parent", type=Path, help="a folder in which the parent is kept from one run to the next")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--write", action="store_true", help=f"keep them in {RESULTS.name}")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = asked.parent or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder)))
        found = measure(asked.size, int(asked.memory * 1e9), asked.rounds, asked.method, folder)
    if asked.write:
        RESULTS.parent.mkdir(exist_ok=True)
        with outputs.staged(RESULTS) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n")
    if asked.json:
        show.as_json(found)
    else:
        shown(found)
    return int(not found["met"])


if __name__ == "__main__":
    sys.exit(main())
