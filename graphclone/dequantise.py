"""Weights that cannot be cut as the integers they are become floats on the way in: packed bits, and scales of blocks.

A block of 32 neighbours shares a scale, so that cutting integers could only keep whole blocks; numbers of 4 bits lie
two in a byte. Both are read as the numbers they stand for; the clone stores these. Integers with a scale a channel or a
tensor are not touched: they are cut where they stand. Formats: onnxruntime/docs/ContribOperators.md (MatMulNBits,
GatherBlockQuantized), onnx/docs/Operators.md (DequantizeLinear-23).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from graphclone import pages
from graphclone.errors import UnsupportedGraph

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
GATHERED = 128  # numbers of a block where GatherBlockQuantized does not say (onnxruntime/docs/ContribOperators.md)
NARROW = ("int4", "int2", "float4")  # in the names of types narrower than a byte
HELD = 1 << 30  # bytes of floats that are held in memory; the others lie in a temporary file
AT_ONCE = 1 << 20  # numbers of a weight that are made at a time
HANDED_ON = ("Identity", "Reshape")  # through which a packed weight may come: a tied embedding of onnxruntime-genai


@dataclass
class _Made:
    """The floats made so far. A packed weight may be a matrix here and a table of rows there (a tied embedding), so
    what was read of it counts as well as its name."""

    constants: dict[tuple[str, ...], gs.Constant] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    size: int = 0  # bytes

    def constant(self, node: gs.Node, operands: Iterable[int], read: Callable[[], Array]) -> gs.Constant:
        """What ``read`` makes of these operands of a node, the weight first; made once for all nodes of its kind."""
        tensors = [node.inputs[k] for k in operands if k < len(node.inputs)]
        key = (node.op, *(str(t.name) for t in tensors), str(sorted(node.attrs.items())))
        if key not in self.constants:
            values = read()
            self.size += values.nbytes
            if self.size > HELD:
                values = pages.spilled(values)
            name = f"{_source(tensors[0]).name}_dequantised"
            while name in self.names:
                name += "_"
            self.names.add(name)
            self.constants[key] = gs.Constant(name, values)
        return self.constants[key]


def dequantise(graph: gs.Graph) -> dict[str, int]:
    """Rewrite the nodes that have a row, in place; how many there were of each operator.

    Raises UnsupportedGraph for a packing that is not understood.
    """
    done: Counter[str] = Counter()
    made = _Made()
    nodes = []
    for node in graph.nodes:
        op = node.op
        row = ROWS.get((node.domain or "", op))
        rewritten = row(node, made) if row else None
        done[op] += rewritten is not None
        nodes += [node] if rewritten is None else rewritten
    graph.nodes[:] = nodes
    if made.names:
        _forget_handed_on(graph)
    return {op: count for op, count in sorted(done.items()) if count}


def _held(node: gs.Node, index: int) -> Array | None:
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    tensor = node.inputs[index]
    values = _value(tensor)
    if values is None:
        raise UnsupportedGraph(
            f"{node.op} node {node.name!r}: operand {index} ({tensor.name!r}) is computed, no weight"
        )
    return values


def _value(tensor: gs.Tensor) -> Array | None:
    """What a constant holds, handed on or reshaped; None where it is computed."""
    if isinstance(tensor, gs.Constant):
        values: Array = tensor.values
        return values
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in HANDED_ON:
        return None
    before = _value(maker.inputs[0])
    if before is None or maker.op == "Identity":
        return before
    wanted = _value(maker.inputs[1])
    if wanted is None:
        return None
    as_it_was = 0 if maker.attrs.get("allowzero", 0) else len(before.shape)  # a 0 is the size that stood there
    sizes = [before.shape[k] if size == 0 and k < as_it_was else int(size) for k, size in enumerate(wanted)]
    try:
        return before.reshape(sizes)
    except ValueError as reason:
        raise UnsupportedGraph(f"Reshape node {maker.name!r}: {reason}") from None


def _source(tensor: gs.Tensor) -> gs.Tensor:
    """The constant that is handed on."""
    while not isinstance(tensor, gs.Constant):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _forget_handed_on(graph: gs.Graph) -> None:
    """Nodes that handed on a packed weight which nothing reads any more."""
    wanted = {id(tensor) for tensor in graph.outputs}
    living: list[gs.Node] = []
    for node in reversed(graph.nodes):
        read = any(tensor.outputs or id(tensor) in wanted for tensor in node.outputs)
        if read or node.op not in HANDED_ON or _value(node.outputs[0]) is None:
            living.append(node)
        else:
            node.inputs.clear()
    graph.nodes[:] = reversed(living)


def unpacked(packed: Array, bits: int) -> Array:
    """Bytes as the numbers in them along the last axis, the lowest bits first.

    >>> unpacked(np.array([0x21, 0x43], np.uint8), 4).tolist()
    [1, 2, 3, 4]
    """
    places = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> places) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)


def _matrix(node: gs.Node, made: _Made) -> list[gs.Node]:
    """MatMulNBits: A [.., K], B [N, blocks, bytes] and a scale a block -> MatMul with [K, N], the bias added."""
    bits = int(node.attrs.get("bits", 4))
    if bits not in (2, 4, 8) or _held(node, 4) is not None:
        raise UnsupportedGraph(f"MatMulNBits node {node.name!r}: {bits} bits with a group index are not understood")
    matrix = made.constant(node, (1, 2, 3), lambda: _columns(node, bits))
    output, bias = node.outputs[0], node.inputs[5] if len(node.inputs) > 5 else None
    data = node.inputs[0]
    node.inputs.clear()
    node.outputs.clear()
    if bias is None or bias.is_empty():
        return [gs.Node("MatMul", node.name, {}, [data, matrix], [output], domain="")]
    plain = gs.Variable(f"{output.name}_unbiased", output.dtype)
    return [
        gs.Node("MatMul", node.name, {}, [data, matrix], [plain], domain=""),
        gs.Node("Add", f"{node.name}_bias", {}, [plain, bias], [output], domain=""),
    ]


def _columns(node: gs.Node, bits: int) -> Array:
    """The matrix [K, N] of MatMulNBits, which holds it column by column."""
    block, rows, columns = (int(node.attrs[key]) for key in ("block_size", "K", "N"))
    held, scales, zero = _held(node, 1), _held(node, 2), _held(node, 3)
    assert held is not None
    assert scales is not None
    blocks = -(-rows // block)
    packed, by_block = held.reshape(columns, blocks, -1), scales.reshape(columns, blocks, 1)
    zeros = np.broadcast_to(_zero_points(zero, columns, blocks, bits), by_block.shape)
    made = np.empty((rows, columns), scales.dtype)
    for some in _runs(columns, blocks * block):
        numbers = unpacked(packed[some], bits).astype(np.float32)
        numbers -= zeros[some]
        numbers *= by_block[some].astype(np.float32)
        made[:, some] = numbers.reshape(len(numbers), -1)[:, :rows].T
    return made


def _runs(count: int, size: int) -> Iterator[slice]:
    """Ranges of columns or rows, each of a few megabytes in float32: what is made on the way is no larger."""
    step = max(1, AT_ONCE // max(size, 1))
    yield from (slice(start, min(start + step, count)) for start in range(0, count, step))


def _zero_points(zero: Array | None, columns: int, blocks: int, bits: int) -> Array:
    """[N, blocks, 1]: packed like the weights, a row of bytes a column; numbers of A's type; or the middle."""
    if zero is None:
        return np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    if zero.dtype != np.uint8:
        return zero.astype(np.float32).reshape(columns, blocks, 1)
    return unpacked(zero.reshape(columns, -1), bits)[:, :blocks, None].astype(np.float32)


def _table(node: gs.Node, made: _Made) -> list[gs.Node]:
    """GatherBlockQuantized: data, indices, scales, zero points -> Gather from a table of floats."""
    table = made.constant(node, (0, 2, 3), lambda: _rows(node))
    node.op, node.domain = "Gather", ""
    node.attrs = {"axis": int(node.attrs.get("gather_axis", 0))}
    node.inputs = [table, node.inputs[1]]
    return [node]


def _rows(node: gs.Node) -> Array:
    """The table of GatherBlockQuantized."""
    bits, axis = int(node.attrs.get("bits", 4)), int(node.attrs.get("quantize_axis", 1))
    block = int(node.attrs.get("block_size", GATHERED))
    held, scales, zero = _held(node, 0), _held(node, 2), _held(node, 3)
    assert held is not None
    assert scales is not None
    packed = held.dtype == np.uint8
    if packed and axis not in (-1, held.ndim - 1):
        raise UnsupportedGraph(f"GatherBlockQuantized node {node.name!r}: packed along another axis than the last")

    def some(rows: slice) -> Array:
        numbers = unpacked(held[rows], bits) if packed else held[rows]
        zeros: Array | float = (1 << (bits - 1)) if packed else 0
        if zero is not None:
            held_zeros = (unpacked(zero[rows], bits) if packed else zero[rows])[..., : scales.shape[-1]]
            zeros = _spread(node, held_zeros, numbers.shape, axis, block)
        return _read(numbers, zeros, _spread(node, scales[rows], numbers.shape, axis, block))

    parts = [part for part in (held, scales, zero) if part is not None]
    if not all(part.ndim for part in parts):
        raise UnsupportedGraph(f"GatherBlockQuantized node {node.name!r}: a single number is no table")
    count = len(held)
    if axis in (0, -held.ndim) or any(len(part) != count for part in parts):
        return some(slice(None))
    width = math.prod(held.shape[1:]) * (8 // bits if packed else 1)
    first = some(slice(0, 1))
    made = np.empty((count, *first.shape[1:]), first.dtype)
    for rows in _runs(count, width):
        made[rows] = some(rows)
    return made


def _read(numbers: Array, zeros: Array | float, scales: Array, kind: Any = None) -> Array:
    """(numbers - zeros) * scales, in float32, rounded once: to the scales' type where no other is given."""
    wide = numbers.astype(np.float32) - np.asarray(zeros).astype(np.float32)
    return np.asarray(wide * scales.astype(np.float32)).astype(kind or scales.dtype)


def _spread(node: gs.Node, setting: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales or zero points, each repeated for the neighbours along the axis that share it: the last may have fewer.

    How many share one is what the node says: the sizes alone leave several answers (80 numbers, 3 blocks).
    """
    if not -len(shape) <= axis < len(shape):
        raise UnsupportedGraph(f"{node.op} node {node.name!r}: {list(shape)} has no axis {axis}")
    axis %= len(shape)
    wanted = tuple(-(-size // max(block, 1)) if k == axis else size for k, size in enumerate(shape))
    if block < 1 or setting.shape != wanted:
        raise UnsupportedGraph(
            f"{node.op} node {node.name!r}: {list(setting.shape)} scales or zero points of {list(shape)} numbers, "
            f"in blocks of {block} along axis {axis}, would be {list(wanted)}"
        )
    return np.take(setting, np.arange(shape[axis]) // block, axis=axis)


def _linear(node: gs.Node, made: _Made) -> list[gs.Node] | None:
    """DequantizeLinear of a constant, where its scales are of blocks or its integers narrower than a byte."""
    weight = node.inputs[0]
    if not isinstance(weight, gs.Constant) or not isinstance(node.inputs[1], gs.Constant):
        return None
    numbers, scales, zero = weight.values, node.inputs[1].values, _held(node, 2)
    axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
    if not (block or scales.ndim > 1 or any(narrow in numbers.dtype.name for narrow in NARROW)):
        return None
    along = [-1 if scales.ndim and k == axis % numbers.ndim else 1 for k in range(numbers.ndim)]

    def placed(setting: Array) -> Array:
        blocked = block or setting.ndim > 1
        return _spread(node, setting, numbers.shape, axis, block) if blocked else setting.reshape(along)

    zeros = 0 if zero is None else placed(zero)
    wanted = int(node.attrs.get("output_dtype", 0))
    kind = helper.tensor_dtype_to_np_dtype(wanted) if wanted else None
    floats = made.constant(node, (0, 1, 2), lambda: _read(numbers, zeros, placed(scales), kind))
    output = node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    for reader in list(output.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is output:
                reader.inputs[position] = floats
    return []


ROWS: dict[tuple[str, str], Callable[[gs.Node, _Made], list[gs.Node] | None]] = {
    (MICROSOFT, "MatMulNBits"): _matrix,
    (MICROSOFT, "GatherBlockQuantized"): _table,
    (MICROSOFT, "DequantizeLinear"): _linear,
    ("", "DequantizeLinear"): _linear,
}
