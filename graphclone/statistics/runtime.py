"""ONNX Runtime, loaded lazily: providers, sessions from memory, and what runs where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.errors import BadData, GraphCloneError, InvalidTarget, UnsupportedGraph, one_line
from graphclone.graph import Model, to_proto
from graphclone.requirements import FEATURES

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DEVICES = {PROVIDERS["cpu"]: ("cpu", 0), PROVIDERS["cuda"]: ("cuda", 0)}  # as ONNX Runtime's bindings name them
EXACT_FLOAT32 = {"use_tf32": "0"}  # TF32 keeps 10 bits of each summand
# what a GPU is asked for; shapes and indices belong on the CPU
HEAVY = frozenset(
    "MatMul Gemm FusedMatMul FusedGemm Conv Attention MultiHeadAttention GroupQueryAttention MatMulNBits MatMulInteger "
    "LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization Softmax".split()
)
MOST_THREADS = 1024
QUIET = 4  # ONNX Runtime's log level for what is fatal: errors are raised, and said in a line of ours
OUT_OF_ROWS = "out of data bounds"  # what it says where a sequence is longer than the table of positions


def failed(where: str, reason: Exception) -> BadData:
    """What is said where ONNX Runtime fails on a batch."""
    why = one_line(reason, 300)
    hint = ": longer than the model's positions? lower --length" if OUT_OF_ROWS in why else ""
    return BadData(f"{where}: ONNX Runtime fails on it ({why}){hint}")


@dataclass(frozen=True)
class Session:
    """ONNX Runtime with the arrays that it reads its weights from, which have to outlive it."""

    runtime: onnxruntime.InferenceSession
    provider: str
    held: tuple[Any, ...]
    placement: Mapping[str, Mapping[str, int]]  # provider -> operator -> nodes that run there

    def run(self, fed: Mapping[str, Array], where: str) -> list[Array]:
        """All outputs, in the graph's order. Raises BadData where ONNX Runtime fails on the feeds."""
        given = {value.name: as_fed(fed[value.name], value.type) for value in self.runtime.get_inputs()}
        try:
            found: list[Array] = self.runtime.run(None, given)
        except Exception as reason:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
            raise failed(where, reason) from None
        return found


def as_fed(array: Array, wanted: str) -> Array:
    """A batch's bfloat16 as float32, where that is what the session takes."""
    widen = wanted == "tensor(float)" and array.dtype.kind == "V"
    return array.astype(np.float32) if widen else array


def runtime() -> Any:
    """The module. Raises MissingPackage where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise FEATURES["cpu"].missing("ONNX Runtime") from None
    return onnxruntime


def provider(asked: str) -> str:
    """The execution provider for auto, cpu or cuda; a GPU that was asked for and is not there is an error.

    ``auto`` is the GPU where onnxruntime has CUDA and finds one.
    """
    if asked != "auto" and asked not in PROVIDERS:
        raise InvalidTarget(f"provider {asked!r} is not one of auto, {', '.join(PROVIDERS)}")
    there = runtime().get_available_providers()
    if asked == "cuda" and PROVIDERS["cuda"] not in there:
        raise InvalidTarget(
            "provider cuda: this onnxruntime has no CUDA; pip uninstall onnxruntime and pip install 'graphclone[gpu]'"
        )
    if asked == "auto":
        return PROVIDERS["cuda" if PROVIDERS["cuda"] in there and _starts(PROVIDERS["cuda"]) else "cpu"]
    return PROVIDERS[asked]


@cache
def _starts(chosen: str) -> bool:
    """Whether a session of one node runs there: onnxruntime-gpu says that it has CUDA where no GPU is."""
    x, y = gs.Variable("x", np.float32, [1]), gs.Variable("y", np.float32, [1])
    tiny = Model(gs.Graph([gs.Node("Neg", "neg", {}, [x], [y])], [x], [y], opset=17, ir_version=8))
    try:
        return bool(open_session(tiny, chosen, 1).run({"x": np.ones(1, np.float32)}, "a trial")[0] == -1)
    except GraphCloneError:
        return False


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    """Raises InvalidTarget for more threads than any machine runs well: ONNX Runtime would start them all."""
    if threads is not None and not 0 <= threads <= MOST_THREADS:
        raise InvalidTarget(f"--threads {threads}: ONNX Runtime is given 1 to {MOST_THREADS}")
    options = runtime().SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads or 0
    return options


def open_session(model: Model, chosen: str, threads: int | None, *, optimise: bool = True) -> Session:
    """Load a model from memory: large weights are handed over where they lie.

    Raises UnsupportedGraph where ONNX Runtime refuses the graph, InvalidTarget where the provider does not start.
    """
    ort = runtime()
    model.graph.cleanup(remove_unused_graph_inputs=True)
    proto, arrays = to_proto(model)
    options = _options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
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
        raise UnsupportedGraph(f"ONNX Runtime refuses the graph: {one_line(reason, 300)}") from None
    if chosen not in opened.get_providers():
        raise InvalidTarget(f"{chosen} was asked for and did not start (driver or CUDA libraries): use --provider cpu")
    return Session(opened, chosen, (whole, values), _placed(opened, chosen))


def open_file(path: Path, chosen: str, threads: int | None) -> onnxruntime.InferenceSession:
    """A file as those who deploy it open it, with ONNX Runtime's own defaults.

    Raises UnsupportedGraph where ONNX Runtime refuses it, InvalidTarget where the provider does not start.
    """
    ort = runtime()
    options = _options(threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs the cores are another's
    try:
        opened = ort.InferenceSession(str(path), options, providers=[chosen])
    except Exception as reason:  # noqa: BLE001  (as above)
        raise UnsupportedGraph(f"{path}: ONNX Runtime refuses it: {one_line(reason, 300)}") from None
    if chosen not in opened.get_providers():
        raise InvalidTarget(f"{chosen} was asked for and did not start (driver or CUDA libraries): use --provider cpu")
    return opened


def _placed(opened: onnxruntime.InferenceSession, chosen: str) -> dict[str, dict[str, int]]:
    """Which operators run where. Raises InvalidTarget where the work of a GPU was left to the CPU."""
    found: dict[str, Counter[str]] = {}
    if hasattr(opened, "get_provider_graph_assignment_info"):  # from 1.24 on
        for part in opened.get_provider_graph_assignment_info():
            found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    left = {op: n for op, n in found.get(PROVIDERS["cpu"], {}).items() if op in HEAVY}
    if chosen != PROVIDERS["cpu"] and left:
        listed = ", ".join(f"{n} {op}" for op, n in sorted(left.items()))
        raise InvalidTarget(f"{chosen} was asked for and leaves {listed} to the CPU: use --provider cpu")
    return {name: dict(sorted(ops.items())) for name, ops in sorted(found.items())}
