"""What collecting statistics costs beside plain inference, and beside what else there is.

    python -m benchmarks.measure                 all of it, on quiet cores: about ten minutes
    python -m benchmarks.measure --quick         small parents and few repeats: does it run?
    python -m benchmarks.measure --peer-python P   a Python that has onnxsim
    python -m benchmarks.measure --provider cuda   the same on a GPU, written to measure-cuda.json

Time: plain inference, the probe with sums and the probe with second moments take turns on the same batch in one
process with the same session options, each twice, of which the second counts; the medians of each round's ratios. Peak
memory and the peers: a process each.
Prints a table and writes benchmarks/results/measure.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import models
from graphclone import feeds, graph, outputs
from graphclone.anatomy import inspect
from graphclone.cli import show
from graphclone.statistics.probe import Probe
from graphclone.statistics.runtime import PROVIDERS, open_session

RESULTS = Path(__file__).parent / "results" / "measure.json"
PARENTS, QUICK = ("smollm2", "minilm", "vit"), ("llama", "bert", "vit-tiny")
SEQUENCES, LENGTH = 8, 128
REPEATS, FEW = 7, 2
LIMITS = {"vectors": 1.05, "moments": 1.5}
SPARE_MB, FACTOR = 200.0, 1.10  # peak memory: at most plain inference times the factor, and this
FLAT = (10, 1000)  # batches of a small parent; the second takes no more memory than the first, but for noise
NOISE_MB = 16.0
PEER_PARENT = "minilm"
PEER_BATCHES = (1, 4)
Row = dict[str, Any]


def batch(parent: str) -> dict[str, Any]:
    """One batch of the parent's inputs, nothing padded; the small parents know no more than 32 positions."""
    return feeds.tiny_feeds(graph.load(models.cached(parent)), SEQUENCES, 32 if parent in QUICK else LENGTH)


def times(parent: str, repeats: int, threads: int, provider: str) -> Row:
    """Seconds a batch of each, taking turns, and the medians of the ratios of each round."""
    fed = batch(parent)
    anatomy = inspect(graph.load(models.cached(parent)))
    inner = [s.name for s in anatomy.sites if s.kind == "inner"]
    session = open_session(graph.load(models.cached(parent)), PROVIDERS[provider], threads)
    probes = {
        name: Probe.open(graph.load(models.cached(parent)), anatomy, provider=provider, threads=threads, moments=sites)
        for name, sites in (("vectors", []), ("moments", inner))
    }
    ways: dict[str, Callable[[], Any]] = {"plain": partial(session.run, fed, "plain")}
    ways |= {name: partial(probe.add, fed, "batch") for name, probe in probes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            way()  # the other sessions' memory and threads have cooled this one's
            start = time.perf_counter()
            way()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    row: Row = {"parent": parent, "seconds": {name: median(held) for name, held in seconds.items()}}
    for name, limit in LIMITS.items():
        ratio = median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        row[name] = {"ratio": ratio, "limit": limit, "met": ratio <= limit}
    return row


def alone(way: str, parent: str, batches: int, threads: int, provider: str, python: str = sys.executable) -> Row:
    """What a way takes in a process of its own (see benchmarks/measuring.py); its error where it fails."""
    model = parent if way == "hooks" else str(models.cached(parent))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "feeds.npz")
        np.savez(file, **batch(parent))
        done = subprocess.run(
            [python, "-m", "benchmarks.measuring", way, model, str(file), str(batches), str(threads), provider],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(RESULTS.parents[2])},
        )
    if done.returncode:
        return {"way": way, "parent": parent, "batches": batches, "failed": done.stderr.strip().splitlines()[-1:]}
    return {"way": way, "parent": parent, "batches": batches, **json.loads(done.stdout.splitlines()[-1])}


def peak(way: str, parent: str, batches: int, threads: int, provider: str) -> float:
    """Peak memory, MB, of a way that has to run."""
    row = alone(way, parent, batches, threads, provider)
    if "failed" in row:
        raise SystemExit(f"{way} on {parent}: {' '.join(row['failed'])}")
    return float(row["peak_mb"])


def memory(parent: str, threads: int, provider: str) -> Row:
    """Peak memory of plain inference and of the probe."""
    held = {way: peak(way, parent, 3, threads, provider) for way in ("plain", "vectors", "moments")}
    limit = held["plain"] * FACTOR + SPARE_MB
    return {"parent": parent, **held, "limit": limit, "met": held["vectors"] <= limit}


def flat(parent: str, threads: int, provider: str, batches: tuple[int, int]) -> Row:
    """Peak memory after few batches and after many."""
    few, many = (peak("vectors", parent, count, threads, provider) for count in batches)
    return {"parent": parent, "batches": batches, "peak_mb": [few, many], "met": many - few <= NOISE_MB}


def peers(parent: str, threads: int, provider: str, python: str) -> list[Row]:
    """Each of the others by itself; what cannot run says so."""
    found = []
    for way in ("plain", "vectors", "moments", "minmax", "entropy", "hooks", "wanda"):
        for batches in PEER_BATCHES:
            row = alone(way, parent, batches, threads, provider, python if way == "wanda" else sys.executable)
            if "failed" in row:
                print(f"SKIPPED {way} on {parent}: {' '.join(row['failed'])}", file=sys.stderr)
            found.append(row)
    return found


def shown(results: dict[str, Any]) -> None:
    """The tables."""
    print("\ntime beside plain inference (medians of rounds)")
    show.table(
        ("parent", "plain s", "sums", "limit", "moments", "limit"),
        [
            (r["parent"], f"{r['seconds']['plain']:.3f}",
             f"{r['vectors']['ratio']:.3f}", f"{r['vectors']['limit']:.2f}",
             f"{r['moments']['ratio']:.3f}", f"{r['moments']['limit']:.2f}")
            for r in results["times"]
        ],
    )  # fmt: skip
    print("\npeak memory, MB")
    show.table(
        ("parent", "plain", "sums", "limit", "moments"),
        [(r["parent"], *(f"{r[k]:,.0f}" for k in ("plain", "vectors", "limit", "moments"))) for r in results["memory"]],
    )
    few, many = results["flat"]["peak_mb"]
    low, high = results["flat"]["batches"]
    print(f"\n{results['flat']['parent']}: {few:,.0f} MB after {low} batches, {many:,.0f} MB after {high}")
    print(f"\nbeside others, {SEQUENCES} x {LENGTH} tokens a batch")
    rows = []
    for r in results["peers"]:
        took = ("failed", "-") if "failed" in r else (f"{r['seconds']:.3f}", f"{r['peak_mb']:,.0f}")
        rows.append((r["way"], r["parent"], r["batches"], *took))
    show.table(("way", "parent", "batches", "s a batch", "peak MB"), rows)


def main() -> int:
    """Exit code 1 where a limit is not met (never with --quick, which measures nothing worth keeping)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--provider", choices=sorted(PROVIDERS), default="cpu")
    parser.add_argument("--peer-python", default=sys.executable)
    asked = parser.parse_args()
    parents = QUICK if asked.quick else PARENTS
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": asked.threads,
            "provider": asked.provider,
        },
        "batch": [SEQUENCES, LENGTH],
        "times": [times(parent, FEW if asked.quick else REPEATS, asked.threads, asked.provider) for parent in parents],
        "memory": [memory(parent, asked.threads, asked.provider) for parent in parents],
        "flat": flat(QUICK[0], asked.threads, asked.provider, (2, 20) if asked.quick else FLAT),
        "peers": peers(QUICK[1] if asked.quick else PEER_PARENT, asked.threads, asked.provider, asked.peer_python),
    }
    shown(results)
    if asked.quick:
        return 0
    results_file = RESULTS if asked.provider == "cpu" else RESULTS.with_stem(f"{RESULTS.stem}-{asked.provider}")
    results_file.parent.mkdir(exist_ok=True)
    with outputs.staged(results_file) as draft:
        draft.write_text(json.dumps(results, indent=1) + "\n")
    met = [r[name]["met"] for r in results["times"] for name in LIMITS]
    return int(not all([*met, *(r["met"] for r in results["memory"]), results["flat"]["met"]]))


if __name__ == "__main__":
    sys.exit(main())
