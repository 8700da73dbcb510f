"""Run cells in processes of their own, a few at a time; what is done already is not done again.

``python -m tools.zoo.runner FOLDER [PATTERN...] [--again]``: every export in the folder whose name matches, its verdict
in FOLDER/results, one line each in FOLDER/RESULTS.txt. A verdict is stale when the export or graphclone is newer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 480  # seconds a cell may take
SOURCES = ("graphclone", "tools/zoo")


def cells(folder: Path, patterns: list[str]) -> list[Path]:
    """The exports of a folder whose names match any pattern, sorted."""
    files = sorted(f for f in folder.glob("*.onnx") if f.with_suffix(".json").exists() and ".clone" not in f.name)
    return [f for f in files if any(fnmatch(f.stem, p) for p in patterns or ["*"])]


def result_of(file: Path) -> Path:
    """Where the verdict on an export is kept."""
    return file.parent / "results" / f"{file.stem}.json"


def run(file: Path, quick: bool = False) -> dict[str, Any]:
    """The verdict on one cell, from a new process; a crash or a hang is WRONG."""
    command = [sys.executable, "-m", "tools.zoo.cell", str(file), *(["--quick"] if quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode == 0:
            held: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return held
        detail = f"exit {done.returncode}: {' '.join(done.stderr.split())[-400:]}"
    except subprocess.TimeoutExpired:
        detail = f"no verdict within {LIMIT} s"
    described = json.loads(file.with_suffix(".json").read_text())
    question = {"question": "process", "answer": "WRONG", "detail": detail}
    return {**{k: described[k] for k in ("row", "column")}, "verdict": "WRONG", "seconds": 0.0, "questions": [question]}


def settle(file: Path, quick: bool = False) -> dict[str, Any]:
    """Run a cell and keep its verdict."""
    verdict = run(file, quick)
    kept = result_of(file)
    kept.parent.mkdir(exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(verdict, indent=1))
    os.replace(partial, kept)
    print(line(verdict), flush=True)
    return verdict


def line(verdict: dict[str, Any]) -> str:
    """A verdict on one line: what is not green, and why; equal reasons once."""
    reasons: dict[str, list[str]] = {}
    for question in verdict["questions"]:
        if question["answer"] != "green":
            reasons.setdefault(f"{question['answer']}: {question['detail']}", []).append(question["question"])
    shown = " | ".join(f"[{', '.join(names)}] {reason}" for reason, names in reasons.items())
    return (
        f"{verdict['verdict']:8}{verdict['row']}-{verdict['column']} {'quick ' if verdict.get('quick') else ''}{shown}"
    )


def refresh(folder: Path) -> None:
    """RESULTS.txt: counts, then every verdict there is, the bad ones first."""
    held = [json.loads(f.read_text()) for f in sorted((folder / "results").glob("*.json"))]
    order = ("WRONG", "refused", "broken", "green")
    counts = ", ".join(f"{sum(v['verdict'] == o for v in held)} {o}" for o in order)
    lines = [line(v) for o in order for v in held if v["verdict"] == o]
    partial = folder / "RESULTS.part"
    partial.write_text("\n".join([f"{len(held)} cells: {counts}", *lines]) + "\n")
    os.replace(partial, folder / "RESULTS.txt")


def stale(file: Path, quick: bool = False) -> bool:
    """Whether a cell has no verdict, or one that is not green and older than the code."""
    kept = result_of(file)
    if not kept.exists() or kept.stat().st_mtime < file.stat().st_mtime:
        return True
    held = json.loads(kept.read_text())
    if held["verdict"] in ("green", "broken"):
        return bool(held.get("quick")) and not quick
    newest = max(f.stat().st_mtime for s in SOURCES for f in (ROOT / s).rglob("*.py"))
    return kept.stat().st_mtime < newest


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--again", action="store_true", help="also what has a verdict")
    parser.add_argument("--quick", action="store_true", help="leave out the cuts of one kind alone")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_intermixed_args()
    todo = [f for f in cells(given.folder, given.patterns) if given.again or stale(f, given.quick)]
    with ThreadPoolExecutor(given.jobs) as pool:
        for _ in pool.map(lambda f: settle(f, given.quick), todo):
            refresh(given.folder)


if __name__ == "__main__":
    main()
