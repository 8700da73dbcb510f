"""``python -m tools.zoo [--folder F] [PATTERN...]``: export and judge what is missing, write the table.

Resumable: kill it and start it again. PATTERNs name cells as ROW-COLUMN (``llama-*``); without any, the whole matrix.
Exit status 1 where a clone is wrong.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models import cache_folder
from tools.zoo import build, runner, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--folder", type=Path, default=cache_folder().parent / "zoo")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out the cuts of one kind alone")
    given = parser.parse_intermixed_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    build.export(given.folder, given.patterns)
    todo = [f for f in runner.cells(given.folder, given.patterns) if runner.stale(f, given.quick)]
    with ThreadPoolExecutor(given.jobs) as pool:
        for _ in pool.map(lambda file: runner.settle(file, given.quick), todo):
            runner.refresh(given.folder)
    print(table.write(given.folder, PAGE))
    return int(any(v["verdict"] == "WRONG" for v in table.read(given.folder).values()))


if __name__ == "__main__":
    sys.exit(main())
