"""``python -m tools.zoo [--folder F] [PATTERN...]``: export and judge what is missing, write the table.

Resumable: kill it and start it again. PATTERNs name cells as ROW-COLUMN (``llama-*``); without any, the whole matrix.
Exit status 1 where a clone is wrong or an anatomy is not its golden.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from models import cache_folder
from tools.zoo import build, goldens, runner, table
from tools.zoo.code import ROOT, Code

PAGE = ROOT / "docs" / "compatibility.md"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--folder", type=Path, default=cache_folder().parent / "zoo")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out the cuts of one kind alone")
    parser.add_argument("--again", action="store_true", help="also what is green, where the code has changed since")
    parser.add_argument("--pytorch", action="store_true", help="only the module in PyTorch, beside earlier verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    given = parser.parse_intermixed_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    (given.folder / "results").mkdir(parents=True, exist_ok=True)
    code = Code.here()
    asked = build.cells(given.patterns)
    work = [runner.Work(row, column, given.folder, code, given.quick, given.pytorch) for row, column in asked]
    todo = [one for one in work if one.stale(given.again)]

    def told(verdict: dict[str, Any]) -> None:
        print(runner.line(verdict), flush=True)
        table.write(given.folder, given.page)

    if todo:
        runner.warm()
        runner.settle_all(todo, given.jobs, told)
    print(table.write(given.folder, given.page))
    held = table.read(given.folder)
    changed = goldens.changed(held.values())
    if changed:
        print("the printed anatomy is not the golden:", *changed, "-- python -m tools.goldens --zoo, review the diff")
    return int(bool(changed) or any(v["verdict"] == "WRONG" for v in held.values()))


if __name__ == "__main__":
    sys.exit(main())
