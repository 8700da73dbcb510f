"""Load: an onnx-graphsurgeon graph whose weights are views on the file.

The graph is onnx-graphsurgeon's, never wrapped. Weights are memory-mapped, beside the file or inside it, so opening a
model of any size costs only its structure. Constant nodes become initializers and local functions are inlined on the
way in, so that every room behind this one meets a single form.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, as onnx's own helpers return it)
import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphclone import folders, garbage, inside, pages
from graphclone.errors import BadModel
from graphclone.fingerprint import Fingerprint
from graphclone.normal_form import normalise
from graphclone.recipes import held, pieces

PLACEHOLDER_ABOVE = 1024  # bytes from which a tensor is streamed or handed over instead of copied into the protobuf
PACKED = {  # bits of a number that shares its byte with others in a file (onnx.proto, raw_data); in memory none does
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
NARROW = frozenset(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for kind in PACKED)


@dataclass
class Model:
    """A graph with where it came from.

    ``graph`` is an onnx-graphsurgeon graph whose constants are NumPy arrays (often views on a memory map: copy before
    writing) or recipes. ``metadata`` is the file's metadata_props. ``notes``: what reading it changed, in words, as far
    as a user should know; ``rewritten``: all that is computed otherwise than the file says it (normal_form.py).
    """

    graph: gs.Graph
    path: Path | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    external_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()

    fingerprint: Fingerprint | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the file and its external data; of the serialised graph where there is no file.

        Computed when first asked for; ``prepare_sha256`` begins in the background. Raises BadModel where the file was
        changed since it was opened.
        """
        if self.path is not None and (self.fingerprint is not None or self.path.is_file()):
            return (self.fingerprint or Fingerprint(self.path, self.external_files)).result()
        proto, tensors = skeleton(self)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True))
        for name in sorted(tensors):
            for piece in pieces(held(tensors[name])):
                digest.update(piece().data)
        return digest.hexdigest()

    def prepare_sha256(self) -> None:
        """Begin to read the file for its digest, while other work goes on; where it is known, for surgery."""
        if self.fingerprint is not None:
            self.fingerprint.prepare()

    def constants(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every initializer by name, subgraphs left out."""
        return {t.name: t.values for t in self.graph.tensors().values() if isinstance(t, gs.Constant)}

    def copy(self) -> Model:
        """New nodes and tensors, the same weight arrays."""
        graph = self.graph.copy()
        graph.producer_name, graph.producer_version = self.graph.producer_name, self.graph.producer_version
        return replace(self, graph=graph, metadata=dict(self.metadata))

    def detached(self) -> Model:
        """A copy that is no longer what the file holds."""
        return replace(self.copy(), path=None, external_files=(), rewritten=(), fingerprint=None)


@garbage.kept()
def load(path: str | Path) -> Model:
    """Read an ONNX file, or the one of a folder; weights in external data stay on disk.

    Raises BadModel for a file that is missing, truncated or not ONNX, and for external data that is missing, too
    short, or outside the model's folder.
    """
    path = folders.model_in(Path(path)) if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise BadModel(f"{path}: no such file")
    try:
        proto, mapped = inside.read(path)
    except (DecodeError, ValueError, OSError) as reason:
        raise BadModel(f"{path}: not an ONNX file, or truncated ({type(reason).__name__})") from None
    if not proto.graph.node or not proto.opset_import:
        raise BadModel(f"{path}: holds no ONNX graph (no node or no opset): not an ONNX file, or an empty one")
    return from_proto(proto, path, mapped)


def from_proto(
    proto: onnx.ModelProto, path: Path | None = None, mapped: Mapping[str, np.ndarray[Any, Any]] | None = None
) -> Model:
    """A Model from a protobuf in memory; ``path`` says where its external data lies, ``mapped`` initializers are not in
    it."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    where = path or Path("<memory>")
    reader = _TensorReader(where, mapped or {})
    try:
        graph = gs.import_onnx(proto)
    except BadModel:
        raise
    except Exception as reason:  # noqa: BLE001  onnx-graphsurgeon raises bare exceptions of many kinds on malformed graphs
        raise BadModel(f"{where}: the graph cannot be read ({type(reason).__name__}: {reason})") from None
    for part in _with_subgraphs(graph):
        for tensor in part.tensors().values():
            if isinstance(tensor, gs.Constant) and isinstance(tensor._values, LazyValues):
                tensor._values = reader.array(tensor._values.tensor, tensor.name, of_model=part is graph)
                tensor.data_location = None
        _absorb_constant_nodes(part, reader)
        part.inputs = [t for t in part.inputs if isinstance(t, gs.Variable)]  # before IR 4 initializers were inputs too
        for node in part.nodes:
            node.domain = "" if node.domain in (None, "ai.onnx") else node.domain
    reading = normalise(graph)
    metadata = {p.key: p.value for p in proto.metadata_props}
    data = tuple(sorted(reader.files))
    fingerprint = Fingerprint(path, data) if path and path.is_file() else None
    held = {t.name for t in proto.graph.initializer} | set(mapped or ())
    notes = (*_overridable([t.name for t in proto.graph.input if t.name in held], proto.ir_version), *reading.notes)
    return Model(graph, path, metadata, data, notes, reading.rewritten, fingerprint)


def _overridable(defaults: list[str], ir_version: int) -> Iterator[str]:
    """Inputs that have a value in the file, in words: from IR 4 on a caller may give another."""
    if defaults and ir_version >= 4:
        more = f" and {len(defaults) - 3} more" if len(defaults) > 3 else ""
        named = ", ".join(defaults[:3]) + more
        yield f"inputs with a default ({named}) are constants of a clone: it cannot be fed others"


def _with_subgraphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    yield graph
    yield from graph.subgraphs(recursive=True)


_CONSTANT_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _absorb_constant_nodes(graph: gs.Graph, reader: _TensorReader) -> None:
    """Turn Constant nodes into initializers: some exporters have nothing else."""
    outputs = {t.name for t in graph.outputs}
    kept = []
    for node in graph.nodes:
        if node.op != "Constant" or node.outputs[0].name in outputs:
            kept.append(node)
            continue
        name, value = next(iter(node.attrs.items()))
        if isinstance(value, gs.Constant):
            held = value._values
            values = reader.array(held.tensor, value.name) if isinstance(held, LazyValues) else value.values
        elif name in _CONSTANT_ATTRIBUTES:
            values = np.asarray(value, dtype=_CONSTANT_ATTRIBUTES[name])
        else:
            kept.append(node)
            continue
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(values)
    graph.nodes[:] = kept


class _TensorReader:
    """TensorProto -> array, mapping external data after checking that it may be read."""

    def __init__(self, model: Path, mapped: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.model = model
        self.mapped = mapped
        self.files: set[Path] = set()
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}

    def array(self, tensor: onnx.TensorProto, name: str, of_model: bool = False) -> np.ndarray[Any, Any]:
        if of_model and name in self.mapped:
            return self.mapped[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor, name)
        try:
            return onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as reason:
            raise BadModel(f"{self.model}: initializer {name} {list(tensor.dims)}: {reason}") from None

    def _external(self, tensor: onnx.TensorProto, name: str) -> np.ndarray[Any, Any]:
        keys = {entry.key: entry.value for entry in tensor.external_data}
        file = self._checked(keys.get("location", ""), name)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        bits = PACKED.get(tensor.data_type, 8 * dtype.itemsize)
        size = -(-math.prod(tensor.dims) * bits // 8)  # Python's integers: a product of sizes may not wrap around
        try:
            offset, length = int(keys.get("offset", 0)), int(keys.get("length", size))
        except ValueError as reason:
            raise BadModel(f"{self.model}: initializer {name}: offset or length is no number ({reason})") from None
        data = self._maps.get(file)
        if data is None:
            try:
                data = pages.mapped(file) if file.stat().st_size else np.empty(0, np.uint8)
            except OSError as reason:  # no right to read it, or more files than a process may open (ulimit -n)
                raise BadModel(f"{file}: external data of {name} cannot be read ({reason.strerror})") from None
            self._maps[file] = data
            self.files.add(file)
        if length != size or offset < 0 or offset + size > data.size:
            raise BadModel(
                f"{file}: initializer {name} needs {size} bytes at {offset}, the file has {data.size}: "
                f"truncated, or of another model"
            )
        held = data[offset : offset + size]
        if tensor.data_type in PACKED:
            whole = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=held.tobytes())
            return onnx.numpy_helper.to_array(whole)
        return held.view(dtype).reshape(tuple(tensor.dims))

    def _checked(self, location: str, name: str) -> Path:
        """A model is untrusted: its external data may not leave its folder."""
        relative = Path(location)
        if not location or relative.is_absolute() or ".." in relative.parts:
            raise BadModel(f"{self.model}: initializer {name} points outside the model's folder ({location!r})")
        file = self.model.parent / relative
        steps = [self.model.parent.joinpath(*relative.parts[: i + 1]) for i in range(len(relative.parts))]
        if any(step.is_symlink() for step in steps):
            raise BadModel(f"{self.model}: external data {location} is a symbolic link, which is not followed")
        if not file.is_file():
            raise BadModel(f"{self.model}: its external data {file.name} is missing: put it beside the model")
        return file


def to_proto(model: Model, location: str = "weights") -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """The protobuf with large initializers left as external references, and their arrays by name.

    Hand the arrays to ONNX Runtime (``SessionOptions.add_external_initializers``). Nothing large is copied, but what
    lies in a file where processors do not read numbers from.
    """
    proto, tensors = skeleton(model, location)
    return proto, {name: np.require(tensor.values, requirements=["ALIGNED"]) for name, tensor in tensors.items()}


@garbage.kept()
def skeleton(model: Model, location: str = "weights") -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
    """``to_proto``, with the initializers themselves, so that recipes stay recipes."""
    graph = model.graph
    swapped: dict[str, tuple[gs.Constant, Any]] = {}
    packed: set[str] = set()
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            values = held(tensor)
            if values.dtype in NARROW:
                packed.add(tensor.name)
            if tensor.name in packed or values.nbytes >= PLACEHOLDER_ABOVE:
                swapped[tensor.name] = (tensor, values)
    try:
        for name, (tensor, values) in swapped.items():
            whole = name in packed  # of several in a byte no piece is written alone: they stay in the protobuf
            tensor._values = LazyValues(_packed(name, values) if whole else _reference(name, values, location))
        proto = gs.export_onnx(graph)
    finally:
        for tensor, values in swapped.values():
            tensor._values = values
    del proto.metadata_props[:]
    for key in sorted(model.metadata):
        proto.metadata_props.add(key=key, value=model.metadata[key])
    return proto, {name: tensor for name, (tensor, _) in swapped.items() if name not in packed}


def _packed(name: str, values: Any) -> onnx.TensorProto:
    """Numbers narrower than a byte, several in one."""
    return onnx.numpy_helper.from_array(values if isinstance(values, np.ndarray) else values.load(), name)


def _reference(name: str, values: Any, location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=values.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.external_data.add(key="location", value=location)
    return tensor
