"""Weights inside an ONNX file, left there: found by the protobuf's encoding and mapped, neither parsed nor copied.

A protobuf is a row of fields: a tag, and for everything of length a length and its bytes
(protobuf.dev/programming-guides/encoding). Reading one whole takes its size twice over; of a large file only what is
around the weights is parsed.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from graphclone import pages

Array = np.ndarray[Any, Any]

MAPPED_ABOVE = 1 << 25  # bytes of a file; a smaller one is read, and may be written over while its model is in use
LARGE = 1 << 16  # bytes of a tensor that is left in the file
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
FIXED = {FIXED64: 8, FIXED32: 4}
GRAPH, INITIALIZER = (
    onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number,
    onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number,
)
RAW = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
WHOLE = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL")
)  # types whose elements are bytes as NumPy has them


@dataclass(frozen=True)
class _Field:
    """Where a field lies: from its tag on, and its content."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def read(path: Path, above: int = MAPPED_ABOVE) -> tuple[onnx.ModelProto, Mapping[str, Array]]:
    """The model without its large initializers, and those by name, as read-only views on the mapped file.

    A file smaller than ``above`` bytes, and one that is written in a way this does not know, is parsed as it is. Raises
    what ``onnx.load`` raises.
    """
    if path.stat().st_size >= above and sys.byteorder == "little":
        found = _mapped(path)
        if found is not None:
            return found
    return onnx.load(str(path), load_external_data=False), {}


def _mapped(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    bytes_ = pages.mapped(path)
    data: mmap.mmap = bytes_.base  # type: ignore[assignment]  # which reads single bytes as Python's numbers, quickly
    try:
        around, graph = _without_graph(data)
        skeleton, arrays = _without_weights(data, bytes_, graph)
        proto = onnx.ModelProto.FromString(around)
        proto.graph.ParseFromString(skeleton)
    except (DecodeError, ValueError, IndexError):
        return None
    names = [t.name for t in proto.graph.initializer]
    return (proto, arrays) if len(set(names)) == len(names) else None


def _without_graph(data: mmap.mmap) -> tuple[bytes, _Field]:
    around, graphs = [], []
    for field in _fields(data, 0, len(data)):
        if field.number == GRAPH and field.kind == LENGTH:
            graphs.append(field)
        else:
            around.append(data[field.start : field.end])
    if len(graphs) != 1:
        raise ValueError("a graph in several parts")
    return b"".join(around), graphs[0]


def _without_weights(data: mmap.mmap, bytes_: Array, graph: _Field) -> tuple[bytes, dict[str, Array]]:
    """The graph's encoding without the bytes of large tensors, whose other fields stay in their places."""
    kept: list[bytes] = []
    arrays: dict[str, Array] = {}
    for field in _fields(data, graph.content, graph.end):
        taken = None
        if field.number == INITIALIZER and field.kind == LENGTH and field.end - field.content >= LARGE:
            taken = _weight(data, bytes_, field)
        if taken is None:
            kept.append(data[field.start : field.end])
            continue
        head, name, array = taken
        kept += [data[field.start : field.start + 1], varint(len(head)), head]  # INITIALIZER's tag is one byte
        arrays[name] = array
    return b"".join(kept), arrays


def _weight(data: mmap.mmap, bytes_: Array, field: _Field) -> tuple[bytes, str, Array] | None:
    """A tensor's other fields, its name and its values; None where it does not hold them as plain bytes."""
    inside = list(_fields(data, field.content, field.end))
    raw = [part for part in inside if part.number == RAW and part.kind == LENGTH]
    if len(raw) != 1 or raw[0].end - raw[0].content < LARGE:
        return None
    head = b"".join(data[part.start : part.end] for part in inside if part is not raw[0])
    tensor = onnx.TensorProto.FromString(head)
    if tensor.data_type not in WHOLE or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    values = bytes_[raw[0].content : raw[0].end]
    if len(values) != int(np.prod(tensor.dims, dtype=object)) * dtype.itemsize:
        return None
    return head, tensor.name, values.view(dtype).reshape(tuple(tensor.dims))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """The fields of one message. Raises ValueError and IndexError where it is none."""
    at = start
    while at < end:
        tag, content = _number(data, at)
        kind = tag & 7
        if kind == LENGTH:
            length, content = _number(data, content)
            stop = content + length
        elif kind == VARINT:
            _, stop = _number(data, content)
        else:
            stop = content + FIXED.get(kind, len(data))
        if stop > end:
            raise ValueError("a field beyond its message")
        yield _Field(tag >> 3, kind, at, content, stop)
        at = stop


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A varint, and where it ends: seven bits a byte, the lowest first."""
    value, shift = 0, 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])
