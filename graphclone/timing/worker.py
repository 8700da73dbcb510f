"""One model in a process of its own: python -m graphclone.timing.worker MODEL PROVIDER THREADS FEEDS...

It reads commands, a line of JSON each, and answers each with one: ``{"length": k, "runs": n}`` runs the k-th feeds and
gives seconds; ``{}`` gives the memory. It ends where its input ends, so that it never outlives who asked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import ml_dtypes
import numpy as np

from graphclone.errors import GraphCloneError
from graphclone.statistics import runtime
from graphclone.statistics.resident import peak

BFLOAT16 = 16  # onnx.TensorProto's number of it


def read(file: Path) -> dict[str, Any]:
    """Feeds by name; arrays of bfloat16, which NumPy's files hold as bytes, as ONNX Runtime takes them."""
    ort = runtime.runtime()
    with np.load(file) as held:
        arrays = {name: held[name] for name in held.files}
    wide = {name: array for name, array in arrays.items() if array.dtype.kind == "V"}
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(ml_dtypes.bfloat16), BFLOAT16)
        for name, array in wide.items()
    }
    return arrays | values


def serve(arguments: Sequence[str], commands: TextIO, answers: TextIO) -> None:
    """Open the model, say so, and answer."""

    def answer(held: dict[str, Any]) -> None:
        print(json.dumps(held), file=answers, flush=True)

    model, provider, threads, *files = arguments
    try:
        feeds = [read(Path(file)) for file in files]
        before = peak()
        start = time.perf_counter()
        session = runtime.open_file(Path(model), provider, int(threads) or None)
    except GraphCloneError as problem:
        return answer({"error": str(problem)})
    answer({"load": time.perf_counter() - start})
    for line in commands:
        asked = json.loads(line)
        try:
            answer(_done(session, feeds, asked) if asked else {"memory": _grown(before)})
        except GraphCloneError as problem:
            answer({"error": str(problem)})


def _done(session: Any, feeds: Sequence[dict[str, Any]], asked: dict[str, int]) -> dict[str, Any]:
    return {"seconds": [_run(session, feeds[asked["length"]]) for _ in range(asked["runs"])]}


def _grown(before: int | None) -> int | None:
    after = peak()
    return None if before is None or after is None else after - before


def _run(session: Any, fed: dict[str, Any]) -> float:
    start = time.perf_counter()
    try:
        session.run(None, fed)
    except Exception as reason:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
        raise runtime.failed("bench", reason) from None
    return time.perf_counter() - start


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)
    serve(sys.argv[1:], sys.stdin, channel)
