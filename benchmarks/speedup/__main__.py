"""Speed-up experiments, resumable: what has run is on disk and never run again.

    python -m benchmarks.speedup language             tune and run every arm of benchmarks/speedup/configs/language.toml
    python -m benchmarks.speedup language --arms random,default --seeds 2
    python -m benchmarks.speedup --report             figures and tables of everything that has run, into docs/

Curves go to benchmarks/results/speedup/EXPERIMENT/ARM/; what is made once (parent, rows, statistics) to the cache.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.speedup import beside, clock, config, materials, report, runs
from benchmarks.speedup.arms import ARMS
from benchmarks.speedup.prepared import prepare
from benchmarks.speedup.tasks import TASKS
from graphclone.errors import GraphCloneError


def main() -> int:
    """The command line. Exit codes are those of graphclone's errors."""
    top = argparse.ArgumentParser(
        "python -m benchmarks.speedup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("config", nargs="?", help="a .toml file, or the name of one of configs/")
    top.add_argument("--arms", help="some of them, by name and in this order")
    top.add_argument("--seeds", type=int, metavar="N", help="the first N of the seeds; 0 tunes alone")
    top.add_argument("--threads", type=int, default=0, help="of PyTorch and ONNX Runtime (default: as PyTorch says)")
    top.add_argument("--clock", action="store_true", help="time everything instead, on a quiet machine")
    top.add_argument("--beside", action="store_true", help="hold the encoder's clones against a model of their size")
    top.add_argument("--report", action="store_true", help="write docs/benchmarks.md and its pictures")
    top.add_argument("--cache", type=Path, default=materials.cache_folder(), help="folder for what is made once")
    given = top.parse_args()
    if given.report:
        print(report.write(print))
        return 0
    if given.config is None:
        top.error("which experiment?")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        run(given)
    except GraphCloneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(given: argparse.Namespace) -> None:
    """One experiment, as far as it is asked for."""
    file = Path(given.config)
    held = config.read(file if file.suffix == ".toml" else config.CONFIGS / f"{given.config}.toml")
    names = given.arms.split(",") if given.arms else held.arms
    if unknown := [name for name in names if name not in ARMS]:
        raise GraphCloneError(f"no arm is called {unknown[0]}: there are {', '.join(ARMS)}")

    def say(text: str) -> None:
        print(f"{held.name}: {text}", flush=True)

    ready = prepare(held, TASKS[held.task], given.cache, say)
    if given.beside:
        beside.write(ready, say)
        return
    clock.write(ready, clock.timed(ready, names) if given.clock else clock.facts(ready))
    if given.clock:
        return
    runs.everything(ready, names, held.seeds if given.seeds is None else held.seeds[: given.seeds], say)


if __name__ == "__main__":
    sys.exit(main())
