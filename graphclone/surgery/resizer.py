"""The resizer: mends every operand that spells out a size, while the clone is traced.

Before a node is traced, its row compares what the operand would do with the
shape that the plan expects, and overrides only the elements that are wrong. Elements computed from shapes at run time
are usually right already; where they follow the batch (heads folded into it) they are scaled, never frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import Trace, Value, describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.cut import Cut

Array = np.ndarray[Any, Any]


Row = Callable[["Edit"], None]


@dataclass
class Resizer:
    """The hook that ``trace.run`` calls before each node of the clone."""

    cut: Cut
    rows: Mapping[tuple[str, str], Row]
    edits: dict[int, list[gs.Node]] = field(default_factory=dict)  # id(node) -> nodes to put before it
    constants: list[str] = field(default_factory=list)  # names of the shape constants that were made
    _count: int = 0

    def __call__(self, trace: Trace, node: gs.Node) -> Sequence[gs.Node]:
        """Mend a node; returns the nodes to put before it."""
        self._count_again(node)
        row = self.rows.get((node.domain or "", node.op))
        if row is None or any(self.cut.trace.values.get(t.name) is None for t in node.outputs if t.name):
            return ()
        added: list[gs.Node] = []
        row(Edit(self, trace, node, added))
        if added:
            self.edits[id(node)] = added
        return added

    def _count_again(self, node: gs.Node) -> None:
        """Attributes that count neurons (num_heads, qkv_hidden_sizes): the trace noted which axis each counts."""
        for count in self.cut.trace.counts.get(node_key(node), ()):
            size = self.cut.size(count.factors, count.full)
            if count.place is None:
                node.attrs[count.attribute] = size
            else:
                sizes = list(node.attrs[count.attribute])
                sizes[count.place] = size
                node.attrs[count.attribute] = sizes

    def constant(self, values: Array) -> gs.Constant:
        """A new integer constant, recorded as one that encodes a size."""
        name = self.fresh("graphclone_size")
        self.constants.append(name)
        return gs.Constant(name, values)

    def fresh(self, stem: str) -> str:
        """A name that no tensor has."""
        while True:
            self._count += 1
            name = f"{stem}_{self._count}"
            if name not in self.cut.names:
                return name

    def place(self, graph: gs.Graph) -> None:
        """Put the added nodes into the graph, each before the node it serves."""
        graph.nodes[:] = [n for node in list(graph.nodes) for n in (*self.edits.get(id(node), ()), node)]


@dataclass
class Edit:
    """One node being resized."""

    resizer: Resizer
    trace: Trace
    node: gs.Node
    added: list[gs.Node]

    @property
    def cut(self) -> Cut:
        """The plan, position by position."""
        return self.resizer.cut

    def before(self, index: int) -> Value:
        """The parent's value of an operand."""
        held = self.cut.trace.input(self.parent, index)
        assert held is not None
        return held

    def after(self, index: int) -> Value | None:
        """The clone's value of an operand."""
        return self.trace.input(self.node, index)

    def expected(self, output: int = 0) -> tuple[int, ...]:
        """The shape that an output must have."""
        found = self.cut.expected(self.node.outputs[output].name)
        assert found is not None
        return found

    @property
    def parent(self) -> gs.Node:
        """The parent's node."""
        return self.cut.found.producers[node_key(self.node)]

    def operand(self, index: int) -> Array:
        """The numbers of an operand."""
        value = self.after(index)
        if value is None or value.data is None:
            raise UnsupportedGraph(
                f"{describe(self.node)}: operand {index} depends on the weights: its size cannot be changed"
            )
        return value.data

    def override(self, index: int, wrong: dict[int, int], dynamic: dict[int, tuple[int, int]] | None = None) -> None:
        """Set elements of a 1-D integer operand: ``wrong`` to constants, ``dynamic`` by the factor new/old."""
        tensor = self.node.inputs[index]
        data = self.operand(index).reshape(-1)
        if isinstance(tensor, gs.Constant):
            values = data.copy()
            for position, size in (wrong | {k: n for k, (n, _) in (dynamic or {}).items()}).items():
                values[position] = size
            self.replace(index, values.reshape(data.shape))
            return
        pieces = _pieces(tensor, data.size)
        if dynamic or pieces is None:
            self._rebuild(index, tensor, data, wrong, dynamic or {})
            return
        inputs = [
            self.resizer.constant(np.array([wrong[k]], data.dtype)) if k in wrong else p for k, p in enumerate(pieces)
        ]
        self.node.inputs[index] = self._new("Concat", inputs, {"axis": 0})

    def replace(self, index: int, values: Array) -> None:
        """Give this node a constant operand of its own: others may read the old one for another reason."""
        self.trace.constants.pop((node_key(self.node), index), None)
        self.node.inputs[index] = self.resizer.constant(values)

    def _rebuild(
        self, index: int, tensor: gs.Tensor, data: Array, wrong: dict[int, int], dynamic: dict[int, tuple[int, int]]
    ) -> None:
        """old * numerator / denominator, then where(mask, constant, that)."""
        current = tensor
        if dynamic:
            ones = np.ones(data.size, data.dtype)
            up, down = ones.copy(), ones.copy()
            for position, (new, old) in dynamic.items():
                common = int(np.gcd(new, old))
                up[position], down[position] = new // common, old // common
            current = self._new("Mul", [current, self.resizer.constant(up)])
            current = self._new("Div", [current, self.resizer.constant(down)])
        if wrong:
            mask = np.isin(np.arange(data.size), list(wrong))
            values = np.array([wrong.get(k, 0) for k in range(data.size)], data.dtype)
            chosen = [self.resizer.constant(mask), self.resizer.constant(values), current]
            current = self._new("Where", chosen)
        self.node.inputs[index] = current

    def _new(self, op: str, inputs: list[gs.Tensor], attrs: dict[str, Any] | None = None) -> gs.Variable:
        out = gs.Variable(self.resizer.fresh("graphclone_shape"), np.int64)
        self.added.append(gs.Node(op, out.name, attrs or {}, inputs, [out], domain=""))
        return out


def _pieces(tensor: gs.Tensor, size: int) -> list[gs.Tensor] | None:
    """The one-element inputs of the Concat that makes a shape, if that is how it is made."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op != "Concat" or len(maker.inputs) != size:
        return None
    return list(maker.inputs)
