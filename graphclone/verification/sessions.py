"""Run a Model in ONNX Runtime: its weights are handed over where they lie, nothing is copied or written to disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphclone.errors import GraphCloneError, UnsupportedGraph
from graphclone.graph import Model, to_proto

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

_FATAL_ONLY = 4  # ONNX Runtime's log level: what it would print is in the exception it raises as well


class MissingRuntime(GraphCloneError):
    """ONNX Runtime is not installed."""


@dataclass(frozen=True)
class Session:
    """An ONNX Runtime session with the arrays that it reads its weights from, which have to outlive it."""

    runtime: onnxruntime.InferenceSession
    held: tuple[Any, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises UnsupportedGraph where ONNX Runtime refuses the feeds or fails inside."""
        names = [output.name for output in self.runtime.get_outputs()]
        wanted = {value.name for value in self.runtime.get_inputs()}
        try:
            results = self.runtime.run(names, {name: array for name, array in feeds.items() if name in wanted})
        except Exception as reason:  # noqa: BLE001  ONNX Runtime's exceptions share no base but Exception
            raise UnsupportedGraph(f"ONNX Runtime fails to run it: {_one_line(reason)}") from None
        return dict(zip(names, results, strict=True))


def open_session(model: Model, *, threads: int | None = None, optimise: bool = True) -> Session:
    """A CPU session on a model in memory; ``optimise=False`` runs the nodes as they stand.

    Raises UnsupportedGraph where ONNX Runtime cannot load the model.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingRuntime(
            "ONNX Runtime is not installed: pip install 'graphclone[cpu]' (or 'graphclone[gpu]' beside an NVIDIA GPU)"
        ) from None
    proto, arrays = to_proto(model)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = sorted(arrays)
    contiguous = [np.ascontiguousarray(arrays[name]) for name in names]
    values = [
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        for array in contiguous
    ]
    if names:
        options.add_external_initializers(names, values)
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as reason:  # noqa: BLE001  as above
        raise UnsupportedGraph(f"ONNX Runtime refuses to load it: {_one_line(reason)}") from None
    return Session(session, (contiguous, values))


def _one_line(reason: Exception) -> str:
    return " ".join(str(reason).split())[:300]


def latency(model: Model, feeds: Mapping[str, Array], *, runs: int = 7, threads: int | None = None) -> float:
    """Median seconds of one run on the CPU, after one run that does not count."""
    session = open_session(model, threads=threads)
    session.run(feeds)
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(feeds)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
