"""One form for what exporters and optimizers write in several: rows of (operator -> the nodes that say the same).

A fused skip-normalisation whose sum is used again hides the residual stream inside one node, where no block could be
joined or removed: it becomes the addition and the normalisation it stands for. ONNX Runtime fuses them again when it
loads the model. A head that was written as a transposed copy of the embedding becomes the embedding, transposed; copies
of a weight that several blocks read become one weight.
Packed weights become numbers (dequantise.py), branches that are always taken the nodes in them (branches.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.branches import inline_branches
from graphclone.dequantise import dequantise
from graphclone.pages import release

Array = np.ndarray[Any, Any]
CORNER = 8
TILE = (4096, 256)  # rows and columns of an embedding at once, so that comparing two needs little memory
PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "MatMulNBits")
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
FEW = 4  # times as many plain norms as fused ones
SKIP_EPSILON = 1e-12  # of a fused norm that does not say (onnxruntime/docs/ContribOperators.md); a plain one's is 1e-5
SUM = 3  # the output that carries input + skip (onnxruntime/docs/ContribOperators.md)


@dataclass(frozen=True)
class Reading:
    """What reading changed, in words. notes: what of it a user should know. rewritten: what is computed otherwise than
    the file says it, and could have been misread (weights made one were held against each other byte for byte)."""

    notes: tuple[str, ...]
    rewritten: tuple[str, ...]


def normalise(graph: gs.Graph) -> Reading:
    """Bring a graph into the form that the rest of graphclone reads, in place."""
    branches = inline_branches(graph)
    numbers = dequantise(graph)
    tie_copies(graph)
    tie_head(graph)
    norms = show_sums(graph)
    done = [("branches that are always taken", branches), ("fused norms", norms)]
    done += [(f"weights of {op}", count) for op, count in numbers.items()]
    said = "are read as the numbers they stand for, and the clone stores those"
    return Reading(
        tuple(f"{count} weights of {op} {said}" for op, count in numbers.items()),
        tuple(f"{count} {what}" for what, count in done if count),
    )


def show_sums(graph: gs.Graph) -> int:
    """Rewrite the nodes that have a row, in place, in graph order; how many there were.

    All of them, where any of them hides the stream (the last norm's sum is read by nobody, yet its block must look like
    the others), or where a few stand among plain norms (of OLMo 2 only the very last norm follows a sum).
    """
    fused = [n for n in graph.nodes if (n.domain, n.op) in ROWS]
    plain = sum(n.op in NORMS for n in graph.nodes)
    if not fused or (FEW * len(fused) > plain and not any(map(_uses_sum, fused))):
        return 0
    nodes = []
    for node in graph.nodes:
        row = ROWS.get((node.domain, node.op))
        nodes += row(node) if row else [node]
    graph.nodes[:] = nodes
    return len(fused)


def tie_head(graph: gs.Graph) -> None:
    """Some exporters write a head that is tied to the embedding as a transposed copy: make it one tensor again."""
    looked_up = [n.inputs[0] for n in graph.nodes if n.op == "Gather" and isinstance(n.inputs[0], gs.Constant)]
    for node in graph.nodes:
        if node.op != "MatMul" or not isinstance(node.inputs[1], gs.Constant):
            continue
        head = node.inputs[1]
        table = next((t for t in looked_up if _is_transposed(t.values, head.values)), None)
        if table is not None:
            turned = gs.Variable(f"{head.name}_tied", head.values.dtype)
            transpose = gs.Node("Transpose", turned.name, {"perm": [1, 0]}, [table], [turned], domain="")
            node.inputs[1] = turned
            graph.nodes.insert(graph.nodes.index(node), transpose)


def tie_copies(graph: gs.Graph) -> None:
    """Blocks that read one weight (ALBERT's) each get a copy where an exporter transposes it block by block; their
    bias, which nothing turned, is still one tensor. Equal matrices whose products meet the same bias become one again.
    """
    first: dict[tuple[str, str], list[gs.Constant]] = {}
    for node in graph.nodes:
        bias = _bias(node)
        if bias is None or not isinstance(node.inputs[1], gs.Constant):
            continue
        weight = node.inputs[1]
        known = first.setdefault((bias.name, node.op), [])
        same = next((w for w in known if w is weight or _is_equal(w.values, weight.values)), None)
        if same is None:
            known.append(weight)
        else:
            node.inputs[1] = same


def _bias(node: gs.Node) -> gs.Constant | None:
    """The varied vector, read in several places, that a product's result meets next."""
    if node.op == "Gemm" and len(node.inputs) > 2:
        operands = list(node.inputs[2:])
    elif node.op == "MatMul" and len(node.outputs[0].outputs) == 1 and node.outputs[0].outputs[0].op == "Add":
        operands = list(node.outputs[0].outputs[0].inputs)
    else:
        return None
    found = next((t for t in operands if isinstance(t, gs.Constant) and len(t.outputs) > 1), None)
    if found is None or found.values.ndim != 1 or not bool((found.values != found.values[:1]).any()):
        return None
    return found


def _is_equal(one: Array, other: Array) -> bool:
    """Byte for byte, a row first."""
    alike = one.shape == other.shape and one.dtype == other.dtype and one.ndim == 2
    return alike and np.array_equal(one[:1], other[:1]) and np.array_equal(one, other)


def _is_transposed(table: Array, head: Array) -> bool:
    """Byte for byte; a corner first, as the tables are large, and then by tiles, of which none stays in memory."""
    if table.ndim != 2 or table.shape != head.shape[::-1] or table.dtype != head.dtype or min(table.shape) < 2:
        return False
    corner = table[:CORNER, :CORNER]
    if not np.array_equal(corner, head[:CORNER, :CORNER].T) or not (table[:CORNER] != table[0, 0]).any():
        return False
    tiles = product(range(0, len(table), TILE[0]), range(0, len(head), TILE[1]))
    return all(_equal_tile(table, head, row, column) for row, column in tiles)


def _equal_tile(table: Array, head: Array, row: int, column: int) -> bool:
    ours = table[row : row + TILE[0], column : column + TILE[1]]
    theirs = head[column : column + TILE[1], row : row + TILE[0]]
    equal = np.array_equal(ours, theirs.T)
    release(ours)
    release(theirs)
    return equal


def _uses_sum(node: gs.Node) -> bool:
    return len(node.outputs) > SUM and bool(node.outputs[SUM].name) and bool(node.outputs[SUM].outputs)


def _unfuse(node: gs.Node, norm: str, bias_input: int) -> list[gs.Node]:
    inputs, outputs = list(node.inputs), list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    named = len(outputs) > SUM and bool(outputs[SUM].name)
    total = outputs[SUM] if named else gs.Variable(f"{outputs[0].name}_sum", outputs[0].dtype)
    made, operands = [], inputs[:2]
    if len(inputs) > bias_input and not inputs[bias_input].is_empty():
        branch = _branch(operands)
        biased = gs.Variable(f"{total.name}_biased", total.dtype)
        added = [operands[branch], inputs[bias_input]]
        made.append(gs.Node("Add", f"{total.name}_add_bias", inputs=added, outputs=[biased], domain=""))
        operands[branch] = biased
    made.append(gs.Node("Add", f"{total.name}_add", inputs=operands, outputs=[total], domain=""))
    weights = [t for t in inputs[2:bias_input] if not t.is_empty()]
    attributes = {"axis": -1, "epsilon": node.attrs.get("epsilon", SKIP_EPSILON)}
    made.append(gs.Node(norm, node.name, attributes, [total, *weights], [outputs[0]], domain=""))
    return made


def _branch(operands: list[gs.Tensor]) -> int:
    """Index of the operand made by the projection: its bias goes back there, as in blocks that were never fused."""
    return next((k for k, t in enumerate(operands) if t.inputs and t.inputs[0].op in PRODUCTS), 0)


def _skip_norm(node: gs.Node) -> list[gs.Node]:
    """input, skip, gain, bias of the norm, bias added before."""
    return _unfuse(node, "LayerNormalization", 4)


def _skip_rms_norm(node: gs.Node) -> list[gs.Node]:
    """input, skip, gain, bias added before. ONNX Runtime keeps SimplifiedLayerNormalization in the standard domain."""
    return _unfuse(node, "SimplifiedLayerNormalization", 3)


ROWS: dict[tuple[str, str], Callable[[gs.Node], list[gs.Node]]] = {
    ("com.microsoft", "SkipLayerNormalization"): _skip_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
}
