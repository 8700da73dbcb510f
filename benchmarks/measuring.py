"""One way of collecting activation statistics, alone in a process: what it took is printed as JSON.

    python -m benchmarks.measuring WAY MODEL FEEDS BATCHES THREADS PROVIDER

FEEDS: a .npz of one batch's inputs, by name, run BATCHES times. Imports only what the way needs, so that peak memory is
its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Batch = Mapping[str, Array]
Seconds = list[float]


def _timed(run: Callable[[], Any], times: int) -> Seconds:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def plain(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """The parent itself, with the probe's session options."""
    from graphclone import graph
    from graphclone.statistics.runtime import PROVIDERS, open_session

    session = open_session(graph.load(model), PROVIDERS[provider], threads)
    return _timed(lambda: session.run(fed, "plain"), batches)


def _probe(model: Path, fed: Batch, batches: int, threads: int, provider: str, moments: bool) -> Seconds:
    from graphclone import graph
    from graphclone.anatomy import inspect
    from graphclone.statistics.probe import Probe

    held = graph.load(model)
    anatomy = inspect(held)
    inner = [s.name for s in anatomy.sites if s.kind == "inner"] if moments else []
    probe = Probe.open(held, anatomy, provider=provider, threads=threads, moments=inner)
    return _timed(lambda: probe.add(fed, "batch"), batches)


def vectors(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """graphclone: |x|, x and x^2 at every writer, inner and norm site, cosine and ratio of every block."""
    return _probe(model, fed, batches, threads, provider, moments=False)


def moments(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """graphclone: the same and second moments at every inner site."""
    return _probe(model, fed, batches, threads, provider, moments=True)


def _calibrator(model: Path, fed: Batch, batches: int, provider: str, method: str) -> Seconds:
    from tempfile import TemporaryDirectory

    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    from graphclone.statistics.runtime import PROVIDERS

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """The same batch again and again."""

        def __init__(self) -> None:
            self.left: Iterator[int] = iter(range(batches))

        def get_next(self) -> Batch | None:
            return dict(fed) if next(self.left, None) is not None else None

    with TemporaryDirectory() as folder:
        made = create_calibrator(
            str(model),
            None,
            str(Path(folder, "augmented.onnx")),
            CalibrationMethod[method],
            providers=[PROVIDERS[provider]],
        )

        def run() -> None:
            made.collect_data(Reader())
            made.compute_data()

        return [second / batches for second in _timed(run, 1)]


def minmax(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """ONNX Runtime's MinMax calibrator."""
    return _calibrator(model, fed, batches, provider, "MinMax")


def entropy(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """ONNX Runtime's Entropy calibrator."""
    return _calibrator(model, fed, batches, provider, "Entropy")


def wanda(model: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """onnxsim's Wanda: calibration and the pruning that it cannot be had without."""
    import onnx
    from onnxsim.pruning import apply_wanda_pruning

    held = onnx.load(str(model))
    data = [dict(fed)] * batches
    return [second / batches for second in _timed(lambda: apply_wanda_pruning(held, data), 1)]


def hooks(recipe: Path, fed: Batch, batches: int, threads: int, provider: str) -> Seconds:
    """torch: the PyTorch parent, a forward hook on every Linear that sums |x|, x and x^2 of its input."""
    import torch

    import models
    from models.recipe import Options

    torch.set_num_threads(threads)
    load = models.TABLE[recipe.name].load
    assert load is not None
    parent = load(Options(shape=models.TABLE[recipe.name].shape))
    sums: dict[str, torch.Tensor] = {}

    def summing(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            found = torch.stack([x.abs().sum(0), x.sum(0), (x * x).sum(0)]).double()
            sums[name] = sums[name] + found if name in sums else found

        return hook

    for name, module in parent.module.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(summing(name))
    given = {name: torch.from_numpy(np.array(array)) for name, array in fed.items()}
    with torch.inference_mode():
        return _timed(lambda: parent.module(**given), batches)


WAYS = {way.__name__: way for way in (plain, vectors, moments, minmax, entropy, wanda, hooks)}


def _peak() -> float:
    """Most resident memory of this process, MB; Linux counts a parent's in getrusage, and not in VmHWM."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run one way and print what it took."""
    way, model, feeds, batches, threads, provider = sys.argv[1:]
    with np.load(feeds) as held:
        fed = {name: held[name] for name in held.files}
    seconds = WAYS[way](Path(model), fed, int(batches), int(threads), provider)
    print(json.dumps({"seconds": median(seconds), "peak_mb": _peak()}))


if __name__ == "__main__":
    main()
