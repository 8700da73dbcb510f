"""Tensors of a file as arrays: mapped where they lie beside it, checked first; sparse ones filled up with zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, as onnx's own helpers return it)
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphclone import pages
from graphclone.errors import BadModel

PACKED = {  # bits of a number that shares its byte with others in a file (onnx.proto, raw_data); in memory none does
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
NARROW = frozenset(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for kind in (*PACKED, onnx.TensorProto.STRING))


class TensorReader:
    """TensorProto -> array, mapping external data after checking that it may be read."""

    def __init__(self, model: Path, mapped: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.model = model
        self.mapped = mapped
        self.files: set[Path] = set()
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}

    def array(self, tensor: onnx.TensorProto, name: str, of_model: bool = False) -> np.ndarray[Any, Any]:
        """The numbers, or the words. Raises BadModel."""
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
            raise BadModel(
                f"{self.model}: external data {location} is a symbolic link, which is not followed: copy the files "
                f"(cp -rL), or have them downloaded as such (hf download --local-dir)"
            )
        if not file.is_file():
            raise BadModel(f"{self.model}: its external data {file.name} is missing: put it beside the model")
        return file


_CONSTANT_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def absorb_constant_nodes(graph: gs.Graph, reader: TensorReader) -> None:
    """Turn Constant nodes into initializers: some exporters have nothing else."""
    outputs = {t.name for t in graph.outputs}
    kept = []
    for node in graph.nodes:
        if node.op != "Constant" or node.outputs[0].name in outputs:
            kept.append(node)
            continue
        name, value = next(iter(node.attrs.items()), ("", None))
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


MOST = 1 << 28  # numbers of a sparse tensor that is filled up: the file does not have to hold them


def dense(proto: onnx.ModelProto, where: Path) -> onnx.ModelProto:
    """The model without sparse tensors, which onnx-graphsurgeon does not know at nodes: itself where it has none.

    Raises BadModel for one whose indices do not fit.
    """
    if not any(graph.sparse_initializer or any(_sparse(node) for node in graph.node) for graph in _graphs(proto.graph)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph in _graphs(copy.graph):
        graph.initializer.extend(_filled(held, where) for held in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for attribute in (a for node in graph.node for a in _sparse(node)):
            filled = _filled(attribute.sparse_tensor, where)
            attribute.CopyFrom(onnx.helper.make_attribute("value", filled))
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _sparse(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return [a for a in node.attribute if node.op_type == "Constant" and a.name == "sparse_value"]


def _filled(held: onnx.SparseTensorProto, where: Path) -> onnx.TensorProto:
    """Indices are places in C order, or one row for each number (onnx.proto)."""
    name, shape = held.values.name, tuple(held.dims)
    if math.prod(shape) > MOST:
        raise BadModel(f"{where}: sparse tensor {name} {list(shape)} is too large to be filled up with zeros")
    try:
        numbers, places = onnx.numpy_helper.to_array(held.values), onnx.numpy_helper.to_array(held.indices)
        made = np.zeros(shape, numbers.dtype)
        flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)
        if flat.shape != numbers.shape or (flat.size and flat.min() < 0):
            raise ValueError(f"{numbers.size} numbers, {flat.size} places")
        made.reshape(-1)[flat] = numbers
    except (ValueError, TypeError, KeyError, IndexError, onnx.checker.ValidationError) as reason:
        raise BadModel(f"{where}: sparse tensor {name} {list(shape)} cannot be read ({reason})") from None
    return onnx.numpy_helper.from_array(made, name)
