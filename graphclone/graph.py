"""Load and save: an onnx-graphsurgeon graph whose weights are views on the file.

The graph is onnx-graphsurgeon's, never wrapped. External data is memory-mapped, so opening a model of any size costs
only its structure; the saver streams each tensor to the output. Constant nodes become initializers and local
functions are inlined on the way in, so that every room behind this one meets a single form.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, as onnx's own helpers return it)
import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphclone.errors import BadModel
from graphclone.normal_form import normalise

EXTERNAL_ABOVE = 1 << 30  # bytes of weights beyond which they go to a file beside the model (protobuf ends at 2 GB)
PLACEHOLDER_ABOVE = 1024  # bytes from which a tensor is streamed or handed over instead of copied into the protobuf
ALIGNMENT = 4096  # external tensors start on a page, so that readers can map them (onnx's ExternalData.md)


@dataclass
class Model:
    """A graph with where it came from.

    ``graph`` is an onnx-graphsurgeon graph whose constants are NumPy arrays (often views on a memory map: copy before
    writing). ``metadata`` is the file's metadata_props. ``notes``: what reading it changed, in words.
    """

    graph: gs.Graph
    path: Path | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    external_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of the file and its external data; of the serialised graph where there is no file."""
        digest = hashlib.sha256()
        if self.path is None:
            proto, arrays = to_proto(self)
            digest.update(proto.SerializeToString(deterministic=True))
            for name in sorted(arrays):
                digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
            return digest.hexdigest()
        for file in (self.path, *self.external_files):
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    digest.update(chunk)
        return digest.hexdigest()

    def constants(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every initializer by name, subgraphs left out."""
        return {t.name: t.values for t in self.graph.tensors().values() if isinstance(t, gs.Constant)}

    def copy(self) -> Model:
        """New nodes and tensors, the same weight arrays."""
        return Model(self.graph.copy(), self.path, dict(self.metadata), self.external_files, self.notes)


def load(path: str | Path) -> Model:
    """Read an ONNX file; weights in external data stay on disk.

    Raises BadModel for a file that is missing, truncated or not ONNX, and for external data that is missing, too
    short, or outside the model's folder.
    """
    path = Path(path)
    if not path.is_file():
        raise BadModel(f"{path}: no such file" if not path.exists() else f"{path}: a folder, not an ONNX file")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as reason:
        raise BadModel(f"{path}: not an ONNX file, or truncated ({type(reason).__name__})") from None
    if not proto.graph.node or not proto.opset_import:
        raise BadModel(f"{path}: holds no ONNX graph (no node or no opset): not an ONNX file, or an empty one")
    return from_proto(proto, path)


def from_proto(proto: onnx.ModelProto, path: Path | None = None) -> Model:
    """A Model from a protobuf in memory; ``path`` says where its external data lies."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    where = path or Path("<memory>")
    reader = _TensorReader(where)
    try:
        graph = gs.import_onnx(proto)
    except BadModel:
        raise
    except Exception as reason:  # noqa: BLE001  onnx-graphsurgeon raises bare exceptions of many kinds on malformed graphs
        raise BadModel(f"{where}: the graph cannot be read ({type(reason).__name__}: {reason})") from None
    for part in _with_subgraphs(graph):
        for tensor in part.tensors().values():
            if isinstance(tensor, gs.Constant) and isinstance(tensor._values, LazyValues):
                tensor._values = reader.array(tensor._values.tensor, tensor.name)
                tensor.data_location = None
        _absorb_constant_nodes(part, reader)
        part.inputs = [t for t in part.inputs if isinstance(t, gs.Variable)]  # before IR 4 initializers were inputs too
        for node in part.nodes:
            node.domain = "" if node.domain in (None, "ai.onnx") else node.domain
    notes = normalise(graph)
    metadata = {p.key: p.value for p in proto.metadata_props}
    return Model(graph, path, metadata, tuple(sorted(reader.files)), notes)


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

    def __init__(self, model: Path) -> None:
        self.model = model
        self.files: set[Path] = set()
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}

    def array(self, tensor: onnx.TensorProto, name: str) -> np.ndarray[Any, Any]:
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
        size = math.prod(tensor.dims) * dtype.itemsize  # Python's integers: a product of sizes may not wrap around
        try:
            offset, length = int(keys.get("offset", 0)), int(keys.get("length", size))
        except ValueError as reason:
            raise BadModel(f"{self.model}: initializer {name}: offset or length is no number ({reason})") from None
        data = self._maps.get(file)
        if data is None:
            data = np.memmap(file, mode="r") if file.stat().st_size else np.empty(0, np.uint8)
            self._maps[file] = data
            self.files.add(file)
        if length != size or offset < 0 or offset + size > data.size:
            raise BadModel(
                f"{file}: initializer {name} needs {size} bytes at {offset}, the file has {data.size}: "
                f"truncated, or of another model"
            )
        return data[offset : offset + size].view(dtype).reshape(tuple(tensor.dims))

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

    Nothing large is copied: hand the arrays to ONNX Runtime (``SessionOptions.add_external_initializers``) or stream
    them to a file.
    """
    graph = model.graph
    swapped: dict[str, tuple[gs.Constant, np.ndarray[Any, Any]]] = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.values.nbytes >= PLACEHOLDER_ABOVE:
            swapped[tensor.name] = (tensor, tensor.values)
    try:
        for name, (tensor, values) in swapped.items():
            tensor._values = LazyValues(_reference(name, values, location))
        proto = gs.export_onnx(graph)
    finally:
        for tensor, values in swapped.values():
            tensor._values = values
    del proto.metadata_props[:]
    for key in sorted(model.metadata):
        proto.metadata_props.add(key=key, value=model.metadata[key])
    return proto, {name: values for name, (_, values) in swapped.items()}


def _reference(name: str, values: np.ndarray[Any, Any], location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=values.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor.external_data.add(key="location", value=location)
    return tensor


def save(model: Model, path: str | Path) -> None:
    """Write the model atomically: temporary files, fsync, rename.

    Weights above 1 GB go to ``<name>.data`` beside it. Raises BadModel where it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadModel(f"{path.parent}: no such folder to write {path.name} into")
    data_name = path.name + ".data"
    proto, arrays = to_proto(model, data_name)
    external = sum(a.nbytes for a in arrays.values()) > EXTERNAL_ABOVE
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data_scratch = scratch.with_suffix(".data")
    try:
        if external:
            _stream(proto, arrays, data_scratch)
        else:
            for tensor in proto.graph.initializer:
                if tensor.name in arrays:
                    _inline(tensor, arrays[tensor.name])
        with scratch.open("wb") as stream:
            stream.write(proto.SerializeToString(deterministic=True))
            stream.flush()
            os.fsync(stream.fileno())
        if external:
            os.replace(data_scratch, path.with_name(data_name))
        os.replace(scratch, path)
    except (OSError, EncodeError) as reason:
        raise BadModel(f"{path}: cannot be written ({reason})") from None
    finally:
        scratch.unlink(missing_ok=True)
        data_scratch.unlink(missing_ok=True)


def _inline(tensor: onnx.TensorProto, values: np.ndarray[Any, Any]) -> None:
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = np.ascontiguousarray(values).tobytes()


def _stream(proto: onnx.ModelProto, arrays: dict[str, np.ndarray[Any, Any]], file: Path) -> None:
    with file.open("wb") as stream:
        for tensor in proto.graph.initializer:
            if tensor.name not in arrays:
                continue
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            values = np.ascontiguousarray(arrays[tensor.name])
            tensor.external_data.add(key="offset", value=str(stream.tell()))
            tensor.external_data.add(key="length", value=str(values.nbytes))
            stream.write(values.reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
