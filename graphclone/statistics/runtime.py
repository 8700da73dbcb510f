"""ONNX Runtime, loaded lazily: providers, sessions from memory, and what runs where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphclone.errors import BadData, GraphCloneError, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model, to_proto

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXACT_FLOAT32 = {"use_tf32": "0"}  # TF32 keeps 10 bits of each summand
QUIET = 3  # ONNX Runtime's log level for errors only


@dataclass(frozen=True)
class Session:
    """ONNX Runtime with the arrays that it reads its weights from, which have to outlive it."""

    runtime: onnxruntime.InferenceSession
    provider: str
    held: tuple[Any, ...]

    def run(self, fed: Mapping[str, Array], where: str) -> list[Array]:
        """All outputs, in the graph's order. Raises BadData where ONNX Runtime fails on the feeds."""
        wanted = [value.name for value in self.runtime.get_inputs()]
        try:
            found: list[Array] = self.runtime.run(None, {name: fed[name] for name in wanted})
        except Exception as reason:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
            raise BadData(f"{where}: ONNX Runtime fails on it: {' '.join(str(reason).split())[:300]}") from None
        return found


def runtime() -> Any:
    """The module. Raises GraphCloneError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise GraphCloneError(
            "ONNX Runtime is not installed: pip install 'graphclone[cpu]', or 'graphclone[gpu]' for an NVIDIA GPU"
        ) from None
    return onnxruntime


def provider(asked: str) -> str:
    """The execution provider for auto, cpu or cuda; a GPU that was asked for and is not there is an error."""
    if asked != "auto" and asked not in PROVIDERS:
        raise InvalidTarget(f"provider {asked!r} is not one of auto, {', '.join(PROVIDERS)}")
    there = runtime().get_available_providers()
    if asked == "cuda" and PROVIDERS["cuda"] not in there:
        raise InvalidTarget(
            "provider cuda: this onnxruntime has no CUDA; pip uninstall onnxruntime and pip install 'graphclone[gpu]'"
        )
    if asked == "auto":
        return PROVIDERS["cuda" if PROVIDERS["cuda"] in there else "cpu"]
    return PROVIDERS[asked]


def open_session(model: Model, chosen: str, threads: int | None, *, optimise: bool = True) -> Session:
    """Load a model from memory: large weights are handed over where they lie.

    Raises UnsupportedGraph where ONNX Runtime refuses the graph, InvalidTarget where the provider does not start.
    """
    ort = runtime()
    model.graph.cleanup(remove_unused_graph_inputs=True)
    proto, arrays = to_proto(model)
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads or 0
    # by the order of the nodes: the default leaves reductions to the end, and every activation waits for its own
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if not optimise:  # for one run: nothing is prepared for a second, or kept for it
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    names = sorted(arrays)
    whole = [np.ascontiguousarray(arrays[name]) for name in names]
    values = [
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        for array in whole
    ]
    if names:
        options.add_external_initializers(names, values)
    asked: list[Any] = [(chosen, EXACT_FLOAT32) if chosen == PROVIDERS["cuda"] else chosen]
    try:
        opened = ort.InferenceSession(proto.SerializeToString(), options, providers=asked)
    except Exception as reason:  # noqa: BLE001  (as above)
        raise UnsupportedGraph(f"ONNX Runtime refuses the graph: {' '.join(str(reason).split())[:300]}") from None
    if chosen not in opened.get_providers():
        raise InvalidTarget(f"{chosen} was asked for and did not start (driver or CUDA libraries): use --provider cpu")
    return Session(opened, chosen, (whole, values))
