"""GPT-2, Llama, BERT and ViT, eager and sdpa, by TorchScript and dynamo, raw and fused: 32 files in PyTorch.

    python -m benchmarks.torch_forward             about five minutes; exports are kept where `make zoo` keeps its own
    python -m benchmarks.torch_forward "gpt2-*"    some of them; the results hold the others as they were

Of each file: how far the module is from ONNX Runtime at three batches and lengths, and how many of the numbers that the
original model trains are parameters with the original's gradients. Beside it onnx2torch and onnx2pytorch, where they
are installed (benchmarks/torch.py says how): whether what they make answers alike at two sizes, and how many numbers of
it train. Prints a table and writes benchmarks/results/torch_forward.json; exit code 1 unless to_torch has all of all.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import machine
from benchmarks.torch_peers import CONVERTERS, called
from graphclone import graph, outputs
from graphclone.cli import show
from graphclone.feeds import tiny_feeds
from graphclone.verification.sessions import open_session
from models import cache_folder
from models.export import quiet
from tools.zoo import build
from tools.zoo.columns import Column
from tools.zoo.imported import gradients, imported
from tools.zoo.row import Row

RESULTS = Path(__file__).parent / "results" / "torch_forward.json"
SIZES = ((2, 7), (3, 11))  # an importer that fixes batch or length answers one of them at most
NEAR = 1e-3  # of a peer's answer, absolute


def cell(row: Row, column: Column, folder: Path) -> dict[str, Any]:
    """One file: to_torch, then the peers."""
    if not build.present(row, column, folder):
        with quiet():
            build.build(row, column, folder)
    file = build.file_of(row, column, folder)
    model = graph.load(file)
    trained = tried(lambda: gradients(model, row, column.name))
    counted = re.match(r"(\d+) trained", trained)
    numbers = int(counted[1]) if counted else 0
    found = {"to_torch": {"forward": tried(lambda: imported(model)), "trained": numbers, "said": trained}}
    for name in CONVERTERS:
        found[name] = peer(name, file, model)
    return {"numbers": numbers, "by": found}


def tried(ask: Callable[[], str]) -> str:
    """The answer, or why there is none."""
    try:
        return ask()
    except Exception as reason:  # noqa: BLE001  whatever is raised is the answer
        return f"{type(reason).__name__}: {str(reason).splitlines()[0][:90] if str(reason) else ''}"


def peer(name: str, file: Path, model: graph.Model) -> dict[str, Any]:
    """What another importer makes of a file: largest difference or the reason, and how many numbers train."""
    held: dict[str, Any] = {"trained": 0}

    def ask() -> str:
        with quiet():
            module = CONVERTERS[name](file)
        held["trained"] = sum(p.numel() for p in module.parameters() if p.requires_grad)
        session, worst = open_session(model, threads=1), 0.0
        call = called(module, [t.name for t in model.graph.inputs])
        for batch, length in SIZES:
            feeds = tiny_feeds(model, batch, length)
            with torch.no_grad(), quiet():
                answer = call(**{n: torch.from_numpy(a) for n, a in feeds.items()})
            wanted = torch.from_numpy(next(iter(session.run(feeds).values())))
            worst = max(worst, float((answer - wanted).abs().max()))
        if worst > NEAR:
            raise ValueError(f"differs by {worst:.1e}")
        return f"{worst:.1e}"

    return {"forward": tried(ask), **held}


def works(told: dict[str, Any]) -> bool:
    """Whether an answer is a difference, not a reason."""
    return re.fullmatch(r"[\d.e+-]+", told["forward"]) is not None


def main(patterns: list[str]) -> int:
    """Exit code 1 where a file of ``to_torch`` differs, or any number of it is not trained."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = cache_folder().parent / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    cells = json.loads(RESULTS.read_text())["cells"] if patterns and RESULTS.exists() else {}
    for row, column in build.cells(patterns):
        if build.headline(row, column):
            cells[f"{row.name}-{column.name}"] = cell(row, column, folder)
            print(f"{row.name}-{column.name}: {cells[f'{row.name}-{column.name}']['by']['to_torch']}", file=sys.stderr)
    made = {"torch": torch.__version__, "machine": machine()}
    result: dict[str, Any] = {"cells": cells, "summary": summary(cells), "made": made}
    shown(result["summary"])
    with outputs.staged(RESULTS) as draft:
        draft.write_text(json.dumps(result, indent=1) + "\n")
    ours = result["summary"]["to_torch"]
    return 0 if ours["forward"] == ours["of"] and ours["trained"] == 1.0 else 1


def summary(cells: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each importer: files that answer alike, and the smallest and mean share of numbers trained in those."""
    told: dict[str, dict[str, Any]] = {}
    for name in ("to_torch", *CONVERTERS):
        right = [c for c in cells.values() if works(c["by"][name])]
        shares = [min(1.0, c["by"][name]["trained"] / c["numbers"]) if c["numbers"] else 0.0 for c in right]
        trained = min(shares, default=0.0) if name == "to_torch" else sum(shares) / max(len(shares), 1)
        told[name] = {"forward": len(right), "of": len(cells), "trained": trained}
    return told


def shown(told: dict[str, dict[str, Any]]) -> None:
    """One line an importer."""
    rows = [(n, f"{t['forward']} of {t['of']}", f"{100 * t['trained']:.0f} %") for n, t in told.items()]
    show.table(("importer", "answers as ONNX Runtime does", "of the original's numbers trained"), rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
