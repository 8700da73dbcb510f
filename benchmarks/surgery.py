"""How long a clone larger than memory takes, beside copying the bytes that have to be read and written for it.

    python -m benchmarks.surgery                   a seeded 7B float16 Llama (13.5 GB) at half its width, under 6 GB
    python -m benchmarks.surgery --size 1B --memory 1
    python -m benchmarks.surgery --size tiny --rounds 1      does it run?

Every round clones, then copies, under the same limit and each with the files dropped from the system's cache first. A
copy reads what has to be read, writes as many bytes as the clone has, and flushes them. Three of them are timed: as
many bytes in one run by `dd`, though no clone finds them in one run (this counts: 1.5 times it are allowed); the whole
file by `dd`; and, as the end of what a disk can give, a program written for it that asks for the rows that the slices
take ahead of time and computes nothing. The first
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

import numpy as np
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
parent, out, method, rows = sys.argv[1:]
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
import numpy as np
runs = []
for tensor in made.graph.tensors().values():
    recipe = getattr(tensor, "_values", None)
    while getattr(recipe, "finish", None) is not None:
        recipe = recipe.source
    takes = getattr(recipe, "takes", None)
    if takes is None:
        continue
    source, mapped = recipe.source, recipe.source
    while not isinstance(mapped.base, np.memmap) and isinstance(mapped.base, np.ndarray):
        mapped = mapped.base
    begin = np.lib.array_utils.byte_bounds(source)[0] - np.lib.array_utils.byte_bounds(mapped)[0] + mapped.offset
    taken = np.sort(takes.get(0, np.arange(len(source))))
    first = np.flatnonzero(np.diff(taken, prepend=-2) != 1)
    last = np.r_[first[1:], len(taken)] - 1
    size = source.strides[0]
    runs += zip((begin + taken[first] * size).tolist(), ((taken[last] - taken[first] + 1) * size).tolist())
np.save(rows, np.array(sorted(runs) or [(0, 1)]))  # of a tiny model nothing waits
print(json.dumps({"stages": stages}))
"""

COPY = """
import os, sys
from itertools import accumulate
import numpy as np
weights, target, rows, written = *sys.argv[1:4], int(sys.argv[4])
BLOCK, AHEAD = 1 << 20, 64 << 20
runs = [(b + k, min(BLOCK, n - k)) for b, n in np.load(rows).tolist() for k in range(0, n, BLOCK)]
until = list(accumulate(n for _, n in runs))
source, asked = os.open(weights, os.O_RDONLY), 0
with open(target, "wb", BLOCK) as out:
    for (begin, length), read in zip(runs, until):
        while asked < len(runs) and until[asked] < read + AHEAD:
            os.posix_fadvise(source, *runs[asked], os.POSIX_FADV_WILLNEED)
            asked += 1
        share = read * written // until[-1] - (read - length) * written // until[-1]
        out.write(os.pread(source, length, begin)[:share])
    out.flush()
    os.ftruncate(out.fileno(), written)  # of a tiny model, whose clone weighs more than its rows
    os.fsync(out.fileno())
"""
ONE_RUN, WHOLE, ROWS = "dd of as many bytes", "dd of the whole file", "rows asked for ahead, by a program for it"


def prepared(size: str, folder: Path) -> tuple[Path, Path, int]:
    """The parent, its weights, and the bytes of its largest tensor."""
    model = folder / "parent.onnx"
    if not model.is_file():
        llama_graph.write(llama_graph.SIZES[size], model)
    proto = onnx.load(str(model), load_external_data=False)
    lengths = [int(e.value) for t in proto.graph.initializer for e in t.external_data if e.key == "length"]
    return model, folder / "parent.onnx.weights", max(lengths)


def in_one_run(weights: Path, read: int, written: int, limit: processes.Limit) -> float:
    """Seconds to read so much of a file and write so much, flushed."""
    processes.forget(weights)
    target = weights.with_name("copy")
    dd = ["dd", f"if={weights}", f"bs={16 * UNIT}", "iflag=fullblock,count_bytes,skip_bytes"]
    seconds = processes.run([*dd, f"of={target}", f"count={written}", "conv=fsync"], limit).seconds
    if read > written:
        rest = read - written
        seconds += processes.run([*dd, "of=/dev/null", f"skip={written}", f"count={rest}"], limit).seconds
    target.unlink()
    return seconds


def by_rows(weights: Path, rows: Path, written: int, limit: processes.Limit) -> float:
    """Seconds to read runs of rows from where they lie, and write so much, flushed."""
    processes.forget(weights)
    target = weights.with_name("copy")
    run = processes.run([sys.executable, "-c", COPY, str(weights), str(target), str(rows), str(written)], limit)
    target.unlink()
    return run.seconds


def one_round(model: Path, weights: Path, method: str, limit: processes.Limit) -> dict[str, Any]:
    """A clone under the limit, and the copies beside it."""
    out, rows = model.with_name("clone.onnx"), model.with_name("rows.npy")
    processes.forget(model, weights)
    run = processes.run([sys.executable, "-c", CLONE, str(model), str(out), method, str(rows)], limit)
    told = json.loads(run.output.strip().splitlines()[-1])
    written = sum(file.stat().st_size for file in out.parent.glob("clone.onnx*"))
    for file in out.parent.glob("clone.onnx*"):
        file.unlink()
    read = int(np.load(rows)[:, 1].sum())
    return {
        "seconds": run.seconds,
        "peak": run.peak,
        "stages": told["stages"],
        "read": read,
        "written": written,
        ROWS: by_rows(weights, rows, written, limit),
        ONE_RUN: in_one_run(weights, read, written, limit),
        WHOLE: in_one_run(weights, weights.stat().st_size, written, limit),
    }


def measure(size: str, memory: int, rounds: int, method: str, folder: Path) -> dict[str, Any]:
    """Medians over the rounds."""
    model, weights, largest = prepared(size, folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    with processes.limited(memory) as limit:
        first = one_round(model, weights, method, limit)
        found = [one_round(model, weights, method, limit) for _ in range(rounds)]
    middle = {key: median(r[key] for r in found) for key in ("seconds", ONE_RUN, WHOLE, ROWS)}
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
        "met": ratios[ONE_RUN] <= FACTOR and peak <= allowed,
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
