"""A copy of the graph that reduces its activations where they arise, run by ONNX Runtime.

Per site and statistic one vector leaves the runtime, so memory does not grow with the data. The copy's own outputs are
removed: what no statistic depends on (the language head, for one) does not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy, Norm, Site
from graphclone.errors import BadData, GraphCloneError, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model, to_proto
from graphclone.statistics.reductions import KINDS, Mask, reduce_sites, show_sums
from graphclone.statistics.store import COUNT

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, Any]
Sums = dict[str, dict[str, Array]]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXACT_FLOAT32 = {"use_tf32": "0"}  # TF32 keeps 10 bits of each summand
QUIET = 3  # ONNX Runtime's log level for errors only
TINY = (3, 13)  # batch and length of the run that learns layouts: no model has 13 heads or a width of 39


@dataclass
class Probe:
    """An open probe. ``guarded`` is its twin that survives padding that is not a number, opened when first needed."""

    model: Model
    sites: tuple[Site, ...]
    norms: Mapping[str, Norm]
    mask: Mask | None
    shapes: Mapping[str, tuple[int, ...]]
    provider: str
    threads: int | None
    session: Session
    guarded: Session | None = None

    @classmethod
    def open(cls, model: Model, anatomy: Anatomy, *, provider: str = "auto", threads: int | None = None) -> Probe:
        """Build the probe and load it. See ``run.measure`` for options and errors."""
        runs_on = _provider(provider)
        sites = tuple(site for site in anatomy.sites if site.kind in KINDS)
        if not sites:
            raise UnsupportedGraph(f"{model.path or 'the model'}: there is no site to measure at")
        tiny = feeds.tiny_feeds(model, *TINY)
        shapes = _layouts(model, sites, tiny)
        mask = Mask.of(feeds.inputs(model), tiny)
        norms = norms_by_site(anatomy)
        session = _open(reduce_sites(model, sites, shapes, mask, norms), runs_on, threads)
        return cls(model, sites, norms, mask, shapes, runs_on, threads, session)

    def run(self, fed: Mapping[str, Array], where: str) -> Sums:
        """Sums of one batch, float64, by site and statistic."""
        found = self._collect(self.session.run(fed, where))
        if _not_finite(found) and self.mask is not None and not fed[self.mask.name].all():
            # a row of padding may attend to nothing and be NaN, which a product with 0 does not remove
            self.guarded = self.guarded or _open(
                reduce_sites(self.model, self.sites, self.shapes, self.mask, self.norms, guard=True),
                self.provider,
                self.threads,
            )
            found = self._collect(self.guarded.run(fed, where))
        broken = _not_finite(found)
        if broken:
            raise BadData(f"{where}: the activations at {broken} are not finite (NaN or infinite): is the input sound?")
        return found

    def _collect(self, results: Sequence[Array]) -> Sums:
        """Outputs come site by site: the statistics of KINDS, then the count."""
        outputs = iter(results)
        found: Sums = {}
        for site in self.sites:
            found[site.name] = {name: next(outputs).astype(np.float64) for name in KINDS[site.kind]}
            found[site.name][COUNT] = next(outputs).astype(np.int64)
        return found


def norms_by_site(anatomy: Anatomy) -> dict[str, Norm]:
    """Each norm that a site measures, by the site's name."""
    outside = [norm for stack in anatomy.stacks for norm in stack.norms]
    inside = [norm for stack in anatomy.stacks for block in stack.blocks for norm in block.norms]
    return {norm.site: norm for norm in (*outside, *inside) if norm.site}


def _not_finite(found: Sums) -> str | None:
    return next((site for site, held in found.items() if not all(np.isfinite(a).all() for a in held.values())), None)


def _layouts(model: Model, sites: Sequence[Site], tiny: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Concrete shape of each site's value in one tiny run: which axes are the batch and the length."""
    copy = model.copy()
    show_sums(copy, sites)
    tensors = copy.graph.tensors()
    values = list(dict.fromkeys(site.value for site in sites))
    absent = [value for value in values if value not in tensors]
    if absent:
        raise UnsupportedGraph(f"{model.path or 'the model'}: no tensor {absent[0]!r} to measure at")
    for number, value in enumerate(values):
        output = gs.Variable(f"graphclone_shape_{number}", np.int64, None)
        copy.graph.nodes.append(gs.Node("Shape", f"graphclone_shape_{number}", {}, [tensors[value]], [output]))
    copy.graph.outputs = [node.outputs[0] for node in copy.graph.nodes[-len(values) :]]
    session = _open(copy, PROVIDERS["cpu"], None, optimise=False)
    results = session.run(tiny, "the run that learns shapes")
    return {value: tuple(int(n) for n in shape) for value, shape in zip(values, results, strict=True)}


@dataclass(frozen=True)
class Session:
    """ONNX Runtime with the arrays that it reads its weights from, which have to outlive it."""

    runtime: onnxruntime.InferenceSession
    held: tuple[Any, ...]

    def run(self, fed: Mapping[str, Array], where: str) -> list[Array]:
        """All outputs, in the graph's order. Raises BadData where ONNX Runtime fails on the feeds."""
        wanted = [value.name for value in self.runtime.get_inputs()]
        try:
            found: list[Array] = self.runtime.run(None, {name: fed[name] for name in wanted})
        except Exception as reason:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
            raise BadData(f"{where}: ONNX Runtime fails on it: {' '.join(str(reason).split())[:300]}") from None
        return found


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise GraphCloneError(
            "ONNX Runtime is not installed: pip install 'graphclone[cpu]', or 'graphclone[gpu]' for an NVIDIA GPU"
        ) from None
    return onnxruntime


def _provider(asked: str) -> str:
    """The execution provider for auto, cpu or cuda; a GPU that was asked for and is not there is an error."""
    if asked != "auto" and asked not in PROVIDERS:
        raise InvalidTarget(f"provider {asked!r} is not one of auto, {', '.join(PROVIDERS)}")
    there = _runtime().get_available_providers()
    if asked == "cuda" and PROVIDERS["cuda"] not in there:
        raise InvalidTarget(
            "provider cuda: this onnxruntime has no CUDA; pip uninstall onnxruntime and pip install 'graphclone[gpu]'"
        )
    if asked == "auto":
        return PROVIDERS["cuda" if PROVIDERS["cuda"] in there else "cpu"]
    return PROVIDERS[asked]


def _open(model: Model, provider: str, threads: int | None, *, optimise: bool = True) -> Session:
    """Load a model from memory: large weights are handed over where they lie."""
    ort = _runtime()
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
    chosen: list[Any] = [(provider, EXACT_FLOAT32) if provider == PROVIDERS["cuda"] else provider]
    try:
        runtime = ort.InferenceSession(proto.SerializeToString(), options, providers=chosen)
    except Exception as reason:  # noqa: BLE001  (as above)
        raise UnsupportedGraph(f"ONNX Runtime refuses the graph: {' '.join(str(reason).split())[:300]}") from None
    if provider not in runtime.get_providers():
        raise InvalidTarget(
            f"{provider} was asked for and did not start (driver or CUDA libraries): use --provider cpu"
        )
    return Session(runtime, (whole, values))
