"""Save: every weight is streamed to the disk a piece at a time, whether it lies in memory, on disk, or is a recipe.

Weights above 1 GB go to a file beside the model, whose name carries a digest of what is in it, so that an old model and
new weights never meet under one name. Smaller ones are streamed into the protobuf itself, whose encoding is simple
enough: a field is a tag, a length and its bytes (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from graphclone.data_file import DataFile
from graphclone.errors import BadModel, InvalidTarget
from graphclone.graph import Model, skeleton
from graphclone.inside import varint
from graphclone.outputs import data_name, staged
from graphclone.recipes import Array, Piece, Recipe, held, pieces

EXTERNAL_ABOVE = 1 << 30  # bytes of weights beyond which they go to files beside the model (protobuf ends at 2 GB)
ALIGNMENT = 4096  # external tensors start on a page, so that readers can map them (onnx's ExternalData.md)
WORKERS = min(os.cpu_count() or 1, 4)
AHEAD = 32  # pieces that the disk reads before one of them is made: requests enough to keep it busy

Values = Array | Recipe


def save(model: Model, path: str | Path, shard_size: int | None = None) -> None:
    """Write the model atomically: temporary files, fsync, rename.

    Weights above 1 GB go to ``<name>.<digest>.data`` beside it; with ``shard_size``, in bytes, to as many files as it
    takes, each that large at most unless one tensor is larger. Raises BadModel where it cannot be written.
    """
    path = Path(path)
    if any(os.path.realpath(path) == os.path.realpath(file) for file in model.external_files):
        raise InvalidTarget(f"{path}: holds the weights of the model to be written; write to another path")
    with staged(path) as draft:
        write(model, draft, shard_size)


def write(model: Model, draft: Path, shard_size: int | None = None) -> None:
    """``save`` into a folder of its own, which ``outputs.staged`` makes and moves into place."""
    proto, tensors = skeleton(model)
    values = {name: held(tensor) for name, tensor in tensors.items()}
    total = sum(v.nbytes for v in values.values())
    free = shutil.disk_usage(draft.parent).free
    if total > free:
        raise OSError(errno.ENOSPC, f"{total:,} bytes of weights, {free:,} are free on the disk")
    if _lies_beside(values, shard_size):
        _write_beside(proto, values, draft, shard_size)
        values = {}
    try:
        _write(proto, values, draft)
    except EncodeError as reason:
        raise BadModel(f"{draft.name}: cannot be written ({reason})") from None


def size(model: Model, name: str = "model.onnx", shard_size: int | None = None) -> int:
    """Bytes that ``save`` would write to a file of that name and beside it; no weight is read."""
    proto, tensors = skeleton(model)
    values = {key: held(tensor) for key, tensor in tensors.items()}
    beside = 0
    if _lies_beside(values, shard_size):
        for number, shard, offsets in (layout := _layout(proto, values, shard_size)):
            _point(shard, offsets, values, data_name(name, "0" * 8, _of(number, layout)))
            beside += offsets[-1] + values[shard[-1].name].nbytes if shard else 0
        values = {}
    before, heads = _framed(proto, values)
    return beside + len(before) + sum(len(head) + values[key].nbytes for key, head in heads.items())


def _lies_beside(values: Mapping[str, Values], shard_size: int | None) -> bool:
    return shard_size is not None or sum(v.nbytes for v in values.values()) > EXTERNAL_ABOVE


def _write(proto: onnx.ModelProto, values: Mapping[str, Values], file: Path) -> None:
    """The model with ``values`` inside: all of it but the large tensors, then each of those."""
    before, heads = _framed(proto, values)
    with file.open("wb") as stream:
        stream.write(before)
        for piece in _in_order(_prefixed(heads.values(), [values[name] for name in heads])):
            stream.write(piece.data)


def _framed(proto: onnx.ModelProto, values: Mapping[str, Values]) -> tuple[bytes, dict[str, bytes]]:
    """(all of the model but ``values``, what stands before the bytes of each of them)."""
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    proto.ClearField("graph")
    large = [t for t in graph.initializer if t.name in values]
    small = [t for t in graph.initializer if t.name not in values]
    heads = {}
    for tensor in large:
        head = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        length = values[tensor.name].nbytes
        inside = head.SerializeToString(deterministic=True) + _field(onnx.TensorProto, "raw_data", length)
        heads[tensor.name] = _field(onnx.GraphProto, "initializer", len(inside) + length) + inside
    del graph.initializer[:]
    graph.initializer.extend(small)
    rest = graph.SerializeToString(deterministic=True)
    whole = len(rest) + sum(len(head) + values[name].nbytes for name, head in heads.items())
    return proto.SerializeToString(deterministic=True) + _field(onnx.ModelProto, "graph", whole) + rest, heads


def _field(message: Any, name: str, size: int) -> bytes:
    """Tag and length of a field that holds bytes or a message."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(size)


def _write_beside(proto: onnx.ModelProto, values: Mapping[str, Values], draft: Path, limit: int | None) -> None:
    """Stream the weights into files of their own, and the places where they are into the protobuf."""
    for number, shard, offsets in (layout := _layout(proto, values, limit)):
        scratch = draft.with_name("weights")
        arrays = [values[tensor.name] for tensor in shard]
        ends = [0, *(offset + value.nbytes for offset, value in zip(offsets, arrays, strict=True))]
        gaps = [bytes(offset - end) for offset, end in zip(offsets, ends, strict=False)]
        with DataFile(scratch) as data:
            for piece in _in_order(_prefixed(gaps, arrays)):
                data.put(piece)
        name = data_name(draft.name, data.digest.hexdigest(), _of(number, layout))
        os.replace(scratch, draft.with_name(name))
        _point(shard, offsets, values, name)


Shard = tuple[int, list[onnx.TensorProto], list[int]]  # number from 1, tensors, where each begins


def _layout(proto: onnx.ModelProto, values: Mapping[str, Values], limit: int | None) -> list[Shard]:
    """Which tensors share a file, in their order, each on a page of its own."""
    shards: list[Shard] = [(1, [], [])]
    end = 0
    for tensor in (t for t in proto.graph.initializer if t.name in values):
        length = values[tensor.name].nbytes
        if shards[-1][1] and limit is not None and end + -end % ALIGNMENT + length > limit:
            shards.append((len(shards) + 1, [], []))
            end = 0
        shards[-1][1].append(tensor)
        shards[-1][2].append(end + -end % ALIGNMENT)
        end = shards[-1][2][-1] + length
    return shards


def _of(number: int, layout: Sequence[Shard]) -> str:
    return f"{number}." if len(layout) > 1 else ""


def _point(shard: Sequence[onnx.TensorProto], offsets: Sequence[int], values: Mapping[str, Values], name: str) -> None:
    for tensor, offset in zip(shard, offsets, strict=True):
        del tensor.external_data[:]
        where = {"location": name, "offset": offset, "length": values[tensor.name].nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))


@dataclass(frozen=True)
class _Prefix:
    """A few bytes of the saver's own, made as a piece is."""

    data: bytes

    def __call__(self) -> Array:
        return np.frombuffer(self.data, np.uint8)

    def expect(self) -> None:
        """They are there."""


def _prefixed(prefixes: Iterable[bytes], values: Iterable[Values]) -> Iterator[_Prefix | Piece]:
    """The bytes of each array behind a few of its own."""
    for prefix, value in zip(prefixes, values, strict=True):
        yield _Prefix(prefix)
        yield from pieces(value)


def _in_order(jobs: Iterable[_Prefix | Piece]) -> Iterator[Array]:
    """What the jobs make, in their order: the disk reads for some, a few of those before them are at work."""
    with ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as reader:
        expected: deque[tuple[_Prefix | Piece, Future[None]]] = deque()
        waiting: deque[Future[Array]] = deque()

        def begin() -> None:
            waiting.append(pool.submit(_made, *expected.popleft()))

        try:
            for job in jobs:
                expected.append((job, reader.submit(job.expect)))
                if len(expected) > AHEAD:
                    begin()
                if len(waiting) > 2 * WORKERS:
                    yield waiting.popleft().result()
            while expected or waiting:
                while expected and len(waiting) <= 2 * WORKERS:
                    begin()
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
            for _, read in expected:
                read.cancel()


def _made(job: _Prefix | Piece, read: Future[None]) -> Array:
    read.result()  # a page that nobody asked for brings its neighbours along
    return job()
