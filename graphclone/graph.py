"""Load: an onnx-graphsurgeon graph whose weights are views on the file.

The graph is onnx-graphsurgeon's, never wrapped. Weights are memory-mapped, beside the file or inside it, so opening a
model of any size costs only its structure. Constant nodes become initializers and local functions are inlined on the
way in, so that every room behind this one meets a single form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphclone import folders, garbage, inside
from graphclone.attributes import put_back, without_empty
from graphclone.errors import BadModel
from graphclone.fingerprint import Fingerprint
from graphclone.normal_form import normalise
from graphclone.recipes import held, pieces
from graphclone.tensors import NARROW, TensorReader, absorb_constant_nodes, dense

STANDARD = "ai.onnx"
PLACEHOLDER_ABOVE = 1024  # bytes from which a tensor is streamed or handed over instead of copied into the protobuf
# types, and bytes at most, of lists that shape inference may read: these stay in the protobuf
COUNTS, COUNTS_BELOW = (np.dtype(np.int64), np.dtype(np.int32)), 1 << 24


@dataclass(frozen=True)
class Header:
    """What a file says of itself, and of tensors by name, that onnx-graphsurgeon has no place for."""

    version: int
    domain: str
    said: str
    annotations: tuple[onnx.TensorAnnotation, ...] = ()

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Header:
        """A file's own."""
        annotations = tuple(proto.graph.quantization_annotation)
        return cls(proto.model_version, proto.domain, proto.doc_string, annotations)

    def write(self, proto: onnx.ModelProto, names: Collection[str]) -> None:
        """Say it again, of the tensors that are there."""
        if self.version:
            proto.model_version = self.version
        if self.domain:
            proto.domain = self.domain
        if self.said:
            proto.doc_string = self.said
        proto.graph.quantization_annotation.extend(a for a in self.annotations if a.tensor_name in names)


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
    header: Header | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """In a line: a graph of gigabytes is printed by mistake."""
        weights = [held(t) for t in self.graph.tensors().values() if isinstance(t, gs.Constant)]
        size = sum(int(w.nbytes) for w in weights)
        where = "in memory" if self.path is None else str(self.path)
        return f"Model({where}: {len(self.graph.nodes):,} nodes, {len(weights):,} initializers of {size:,} bytes)"

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
    proto = dense(proto, where)
    reader = TensorReader(where, mapped or {})
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
        absorb_constant_nodes(part, reader)
        part.inputs = [t for t in part.inputs if isinstance(t, gs.Variable)]  # before IR 4 initializers were inputs too
        for node in part.nodes:
            node.domain = "" if node.domain in (None, STANDARD) else node.domain
    graph.import_domains = _domains(proto)
    reading = normalise(graph)
    metadata = {p.key: p.value for p in proto.metadata_props}
    data = tuple(sorted(reader.files))
    fingerprint = Fingerprint(path, data) if path and path.is_file() else None
    held = {t.name for t in proto.graph.initializer} | set(mapped or ())
    notes = (*_overridable([t.name for t in proto.graph.input if t.name in held], proto.ir_version), *reading.notes)
    return Model(graph, path, metadata, data, notes, reading.rewritten, fingerprint, Header.of(proto))


def _domains(proto: onnx.ModelProto) -> list[onnx.OperatorSetIdProto]:
    """What is imported, the standard operators by one name: "ai.onnx" is another for "" (onnx.proto)."""
    versions = {"" if each.domain == STANDARD else each.domain: each.version for each in proto.opset_import}
    return [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]


def _overridable(defaults: list[str], ir_version: int) -> Iterator[str]:
    """Inputs that have a value in the file, in words: from IR 4 on a caller may give another."""
    if defaults and ir_version >= 4:
        more = f" and {len(defaults) - 3} more" if len(defaults) > 3 else ""
        named = ", ".join(defaults[:3]) + more
        yield f"inputs with a default ({named}) are constants of a clone: it cannot be fed others"


def _with_subgraphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    yield graph
    yield from graph.subgraphs(recursive=True)


def to_proto(model: Model) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """The protobuf with large initializers left as external references, and their arrays by name.

    Hand the arrays to ONNX Runtime (``SessionOptions.add_external_initializers``). Nothing large is copied except
    arrays that lie unaligned in the file.
    """
    proto, tensors = skeleton(model)
    return proto, {name: np.require(tensor.values, requirements=["ALIGNED"]) for name, tensor in tensors.items()}


@garbage.kept()
def skeleton(model: Model) -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
    """``to_proto``, with the initializers themselves, so that recipes stay recipes."""
    graph = model.graph
    swapped: list[tuple[gs.Constant, Any]] = []
    apart: dict[str, gs.Constant] = {}
    seen: set[int] = set()
    try:
        for part in _with_subgraphs(graph):
            for tensor in part.tensors().values():
                if not isinstance(tensor, gs.Constant) or id(tensor) in seen:
                    continue  # bodies read what lies around them too
                seen.add(id(tensor))
                values = held(tensor)
                if values.dtype in NARROW:
                    swapped.append((tensor, values))
                    tensor._values = LazyValues(_packed(tensor.name, values))
                elif part is graph and _stays_apart(values):
                    swapped.append((tensor, values))
                    apart[tensor.name] = tensor
                    tensor._values = LazyValues(_reference(tensor.name, values))
        with without_empty(_with_subgraphs(graph)) as empty:
            proto = gs.export_onnx(graph)
        put_back(proto.graph, empty)
    finally:
        for tensor, values in swapped:
            tensor._values = values
    del proto.metadata_props[:]
    for key in sorted(model.metadata):
        proto.metadata_props.add(key=key, value=model.metadata[key])
    if model.header is not None:
        model.header.write(proto, graph.tensors())
    return proto, apart


def _stays_apart(values: Any) -> bool:
    """Handed over outside the protobuf: large, and not an integer list that shape inference reads."""
    counts = values.dtype in COUNTS and values.nbytes < COUNTS_BELOW
    return bool(values.nbytes >= PLACEHOLDER_ABOVE) and not counts


def _packed(name: str, values: Any) -> onnx.TensorProto:
    """Numbers narrower than a byte, several in one, and words: of neither is a piece written alone."""
    return onnx.numpy_helper.from_array(values if isinstance(values, np.ndarray) else values.load(), name)


def _reference(name: str, values: Any) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=values.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.external_data.add(key="location", value="weights")
    return tensor
