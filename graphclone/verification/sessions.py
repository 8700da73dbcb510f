"""Run a Model in ONNX Runtime: its weights are handed over where they lie, nothing is copied or written to disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphclone.caches import rings
from graphclone.errors import UnsupportedGraph, one_line
from graphclone.graph import Model, to_proto
from graphclone.inside import read
from graphclone.requirements import FEATURES
from graphclone.verification.products import EXACT, unsigned

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MOST_RUNS = 200  # that a latency is the median of
TURN_RUNS, TURN_SECONDS = 2, 0.2  # of a model that is timed by turns: so many runs, or all that so many seconds hold
PRECISION, FINEST = "accuracy_level", 1  # of MatMulNBits: 4 rounds what it multiplies to 8 bits, 1 nothing
_FOLDER = "session.model_external_initializers_file_folder_path"
_FATAL_ONLY = 4  # ONNX Runtime's log level: what it would print is in the exception it raises as well


@dataclass(frozen=True)
class Session:
    """An ONNX Runtime session with the arrays that it reads its weights from, which have to outlive it.

    rings: outputs that are written in part, over the inputs that they follow.
    """

    runtime: onnxruntime.InferenceSession
    held: tuple[Any, ...]
    rings: Mapping[str, str] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises UnsupportedGraph where ONNX Runtime refuses the feeds or fails inside."""
        names = [output.name for output in self.runtime.get_outputs()]
        wanted = {value.name for value in self.runtime.get_inputs()}
        given = {name: array for name, array in feeds.items() if name in wanted}
        try:
            results = self._over(names, given) if self.rings else self.runtime.run(names, given)
        except Exception as reason:  # noqa: BLE001  ONNX Runtime's exceptions share no base but Exception
            raise UnsupportedGraph(f"ONNX Runtime fails to run it: {one_line(reason, 300)}") from None
        return dict(zip(names, results, strict=True))

    def _over(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs in order; a ring is written over a copy of its past, not over whatever memory held."""
        import onnxruntime as ort

        binding = self.runtime.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            if name in self.rings:
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(feeds[self.rings[name]].copy()))
            else:
                binding.bind_output(name)
        self.runtime.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def run_bound(self, feeds: Mapping[str, Any], names: Sequence[str], device: str, number: int = 0) -> dict[str, Any]:
        """Named outputs, left on the ``device`` (cpu or cuda, by its number) that the session runs on.

        Feeds and results are anything that speaks DLPack, a torch tensor for one; nothing passes through the host.
        Raises UnsupportedGraph as ``run`` does.
        """
        import onnxruntime as ort

        try:
            binding = self.runtime.io_binding()
            for value in self.runtime.get_inputs():
                binding.bind_ortvalue_input(value.name, ort.OrtValue.from_dlpack(feeds[value.name]))
            for name in names:
                binding.bind_output(name, device, number)
            binding.synchronize_inputs()
            self.runtime.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as reason:  # noqa: BLE001  as above
            raise UnsupportedGraph(f"ONNX Runtime fails to run it: {one_line(reason, 300)}") from None
        return dict(zip(names, binding.get_outputs(), strict=True))


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise FEATURES["cpu"].missing("ONNX Runtime") from None
    return onnxruntime


def has_cuda() -> bool:
    """Whether ONNX Runtime was built for NVIDIA GPUs. Raises MissingPackage."""
    return CUDA in _runtime().get_available_providers()


def open_session(
    model: Model,
    *,
    threads: int | None = None,
    optimise: bool = True,
    gpu: int | None = None,
    beside: bool = False,
    exact: bool = True,
) -> Session:
    """A session on a model in memory; ``optimise=False`` runs the nodes as they stand. gpu: its number, if any.
    ``beside``: another session runs while this one does not, and its threads do not wait for work at full speed then.
    ``exact``: products of integers are whole on every CPU (products.py); else as whoever serves the file has them.

    Raises UnsupportedGraph where ONNX Runtime cannot load the model.
    """
    ort = _runtime()
    proto, arrays = to_proto(unsigned(model) if exact and not optimise else model)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry(EXACT, str(int(exact)))
    if threads:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if beside:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    names = sorted(arrays)
    contiguous = [np.ascontiguousarray(arrays[name]) for name in names]
    values = [
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        for array in contiguous
    ]
    if names:
        options.add_external_initializers(names, values)
    # TF32 keeps 10 bits of each factor
    chosen: list[Any] = [CPU] if gpu is None else [(CUDA, {"device_id": str(gpu), "use_tf32": "0"}), CPU]
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=chosen)
    except Exception as reason:  # noqa: BLE001  as above
        raise UnsupportedGraph(
            f"{model.path or 'the model'}: ONNX Runtime refuses to load it: {one_line(reason, 300)}"
        ) from None
    return Session(session, (contiguous, values), rings(model.graph))


def open_file(model: Model) -> Session:
    """A session on the very file that a model was read from, its nodes as they stand.

    How coarsely a kernel may compute is no part of what a file means: the finest is asked for. Raises UnsupportedGraph
    where ONNX Runtime cannot load the file.
    """
    ort = _runtime()
    assert model.path is not None
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source: str | bytes = str(model.path)
    try:
        if any(_coarse(read(model.path)[0])):
            proto = onnx.load(model.path, load_external_data=False)
            for attribute in _coarse(proto):
                attribute.i = FINEST
            options.add_session_config_entry(_FOLDER, str(model.path.absolute().parent))
            source = proto.SerializeToString()
        session = ort.InferenceSession(source, options, providers=[CPU])
    except Exception as reason:  # noqa: BLE001  as above
        raise UnsupportedGraph(f"ONNX Runtime refuses to load the file: {one_line(reason, 300)}") from None
    return Session(session, (), rings(model.graph))


def _coarse(part: Any) -> Iterator[onnx.AttributeProto]:
    """Where a model, a function or a graph, bodies too, allows a kernel to compute more coarsely than it could."""
    if isinstance(part, onnx.ModelProto):
        for inner in (part.graph, *part.functions):
            yield from _coarse(inner)
        return
    for node in part.node:
        for attribute in node.attribute:
            if attribute.name == PRECISION and attribute.i > FINEST:
                yield attribute
            if attribute.HasField("g"):
                yield from _coarse(attribute.g)


def latency(
    model: Model,
    feeds: Mapping[str, Array],
    *,
    runs: int = 7,
    threads: int | None = None,
    gpu: int | None = None,
    at_least: float = 0.5,
) -> float:
    """Median seconds of a run, after one that does not count: of ``runs`` runs, or of all that ``at_least`` seconds
    hold, where those are more. gpu: its number; None for the CPU."""
    return _median(open_session(model, threads=threads, gpu=gpu, exact=False), feeds, runs, at_least)


def latencies(
    cases: Sequence[tuple[Model, Mapping[str, Array]]],
    *,
    threads: int | None = None,
    gpu: int | None = None,
    turns: int = 5,
) -> Array:
    """``latency`` of several models by turns, [turn, model]: what slows the machine down for a while meets all of them,
    and the difference between two is not made of it."""
    given: dict[str, Any] = {"threads": threads, "gpu": gpu, "beside": True, "exact": False}
    sessions = [(open_session(model, **given), feeds) for model, feeds in cases]
    return np.array([[_median(one, feeds, TURN_RUNS, TURN_SECONDS) for one, feeds in sessions] for _ in range(turns)])


def _median(session: Session, feeds: Mapping[str, Array], runs: int, at_least: float) -> float:
    session.run(feeds)
    taken: list[float] = []
    while len(taken) < runs or (sum(taken) < at_least and len(taken) < MOST_RUNS):
        start = time.perf_counter()
        session.run(feeds)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
