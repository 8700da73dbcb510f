"""Everything that encodes a size: one row an operator.

The clone is traced as it is edited. Before a node is traced, its row compares what the operand would do with the
shape that the plan expects, and overrides only the elements that are wrong. Elements computed from shapes at run time
are usually right already; where they follow the batch (heads folded into it) they are scaled, never frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Ids
from graphclone.anatomy.trace import Trace, Value, describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.cut import Cut

Array = np.ndarray[Any, Any]


@dataclass
class Resizer:
    """The hook that ``trace.run`` calls before each node of the clone."""

    cut: Cut
    edits: dict[int, list[gs.Node]] = field(default_factory=dict)  # id(node) -> nodes to put before it
    constants: list[str] = field(default_factory=list)  # names of the shape constants that were made
    _count: int = 0

    def __call__(self, trace: Trace, node: gs.Node) -> Sequence[gs.Node]:
        self._count_again(node)
        row = ROWS.get((node.domain or "", node.op))
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
        self._count += 1
        name = f"graphclone_size_{self._count}"
        self.constants.append(name)
        return gs.Constant(name, values)

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
        return self.resizer.cut

    def before(self, index: int) -> Value:
        """The parent's value of an operand."""
        held = self.cut.trace.input(self._parent_node, index)
        assert held is not None
        return held

    def after(self, index: int) -> Value | None:
        return self.trace.input(self.node, index)

    def expected(self, output: int = 0) -> tuple[int, ...]:
        found = self.cut.expected(self.node.outputs[output].name)
        assert found is not None
        return found

    @property
    def _parent_node(self) -> gs.Node:
        wanted = {t.name for t in self.node.outputs if t.name}
        return next(
            n for n in self.cut.trace.model.graph.nodes if any(t.name in wanted for t in n.outputs)
        )

    def operand(self, index: int) -> Array:
        value = self.after(index)
        if value is None or value.data is None:
            raise UnsupportedGraph(f"{describe(self.node)}: operand {index} depends on the weights: its size cannot be changed")
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
        inputs = [self.resizer.constant(np.array([wrong[k]], data.dtype)) if k in wrong else p for k, p in enumerate(pieces)]
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
        self.resizer._count += 1
        out = gs.Variable(f"graphclone_shape_{self.resizer._count}", np.int64)
        self.added.append(gs.Node(op, out.name, attrs or {}, inputs, [out], domain=""))
        return out


def _pieces(tensor: gs.Tensor, size: int) -> list[gs.Tensor] | None:
    """The one-element inputs of the Concat that makes a shape, if that is how it is made."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op != "Concat" or len(maker.inputs) != size:
        return None
    return list(maker.inputs)


Row = Callable[[Edit], None]


def reshape(edit: Edit) -> None:
    expected, asked = edit.expected(), edit.operand(1).reshape(-1)
    given = edit.after(0)
    assert given is not None
    copies = not edit.node.attrs.get("allowzero", 0)
    resolved = [given.shape[i] if d == 0 and copies else int(d) for i, d in enumerate(asked)]
    _target(edit, 1, resolved, expected, inferred=-1)


def expand(edit: Edit) -> None:
    expected, asked = edit.expected(), [int(d) for d in edit.operand(1).reshape(-1)]
    lead = len(expected) - len(asked)
    _target(edit, 1, [d if d != 1 else e for d, e in zip(asked, expected[lead:], strict=True)], expected[lead:], lead=lead)


def resize(edit: Edit) -> None:
    if len(edit.node.inputs) > 3 and not edit.node.inputs[3].is_empty():
        _target(edit, 3, [int(d) for d in edit.operand(3)], edit.expected())


def _target(
    edit: Edit, index: int, resolved: list[int], expected: tuple[int, ...], inferred: int | None = None, lead: int = 0
) -> None:
    """Override the elements of a target shape that miss the expected one."""
    output = edit.node.outputs[0].name
    wrong: dict[int, int] = {}
    dynamic: dict[int, tuple[int, int]] = {}
    for k, (have, want) in enumerate(zip(resolved, expected, strict=True)):
        if have in (want, inferred):
            continue
        if not isinstance(edit.node.inputs[index], gs.Constant) and edit.cut.varies(output, k + lead):
            dynamic[k] = (want, have)
        else:
            wrong[k] = want
    if isinstance(edit.node.inputs[index], gs.Constant) and inferred is not None and inferred not in resolved:
        # a constant that spells out a size which follows the batch is right only for that batch: let it be inferred
        wrong = {k: (inferred if edit.cut.varies(output, k + lead) else v) for k, v in wrong.items()}
    if inferred is not None and inferred not in resolved and len(dynamic) == 1:
        # a division by the parent's number of heads has rounded already: infer the element instead of scaling it
        wrong, dynamic = wrong | {next(iter(dynamic)): inferred}, {}
    if wrong or dynamic:
        edit.override(index, wrong, dynamic)


def slice_(edit: Edit) -> None:
    """Starts and ends count neurons: recount them among those that stay."""
    starts, ends = edit.operand(1).reshape(-1), edit.operand(2).reshape(-1)
    old_starts, old_ends = edit.before(1).data, edit.before(2).data
    assert old_starts is not None and old_ends is not None
    count = starts.size
    has_axes = len(edit.node.inputs) > 3 and not edit.node.inputs[3].is_empty()
    has_steps = len(edit.node.inputs) > 4 and not edit.node.inputs[4].is_empty()
    axes = edit.operand(3).reshape(-1) if has_axes else np.arange(count)
    steps = edit.operand(4).reshape(-1) if has_steps else np.ones(count, np.int64)
    source, given = edit.before(0), edit.after(0)
    assert given is not None
    wrong_starts, wrong_ends = {}, {}
    for k in range(count):
        axis = int(axes[k]) % len(source.shape)
        full, step = source.shape[axis], int(steps[k])
        chosen = np.arange(full)[int(old_starts.reshape(-1)[k]) : int(old_ends.reshape(-1)[k]) : step]
        wanted = _recount(edit, source, axis, chosen)
        if np.array_equal(np.arange(given.shape[axis])[int(starts[k]) : int(ends[k]) : step], wanted):
            continue
        start, end = _as_range(edit, wanted, step)
        wrong_starts[k], wrong_ends[k] = start, end
    if wrong_starts:
        edit.override(1, wrong_starts)
        edit.override(2, wrong_ends)


def _recount(edit: Edit, source: Value, axis: int, chosen: Ids) -> Ids:
    """Positions of the parent's axis as positions of the clone's, the dropped ones left out."""
    living = edit.cut.living(source.axis(axis), source.shape[axis])
    return (np.cumsum(living) - 1)[chosen[living[chosen]]]


def _as_range(edit: Edit, wanted: Ids, step: int) -> tuple[int, int]:
    if wanted.size == 0 or step < 1 or not np.array_equal(wanted, wanted[0] + step * np.arange(wanted.size)):
        raise UnsupportedGraph(
            f"{describe(edit.node)}: the neurons kept are no longer every {step}th of a range: keep whole strides of them"
        )
    return int(wanted[0]), int(wanted[-1]) + 1


def split(edit: Edit) -> None:
    axis = int(edit.node.attrs.get("axis", 0))
    sizes = [edit.expected(k)[axis] for k in range(len(edit.node.outputs))]
    given = edit.after(0)
    assert given is not None
    if "split" in edit.node.attrs:
        edit.node.attrs["split"] = sizes
    elif len(edit.node.inputs) > 1 and not edit.node.inputs[1].is_empty():
        have = edit.operand(1).reshape(-1)
        wrong = {k: s for k, s in enumerate(sizes) if int(have[k]) != s}
        if wrong:
            edit.override(1, wrong)
    elif len(set(sizes)) > 1:
        edit.node.attrs.pop("num_outputs", None)
        while len(edit.node.inputs) > 1:
            edit.node.inputs.pop()
        edit.node.inputs.append(edit.resizer.constant(np.array(sizes, np.int64)))


def gather(edit: Edit) -> None:
    """Fixed indices along an axis of neurons."""
    source, indices = edit.before(0), edit.before(1)
    axis = int(edit.node.attrs.get("axis", 0)) % len(source.shape)
    if not source.axis(axis) or not indices.static or indices.data is None:
        return
    wanted = _recount(edit, source, axis, indices.data.reshape(-1) % source.shape[axis])
    have = edit.operand(1)
    if not np.array_equal(have.reshape(-1), wanted):
        edit.replace(1, wanted.reshape(have.shape if have.ndim == 0 else -1).astype(have.dtype))


def tile(edit: Edit) -> None:
    given, expected, repeats = edit.after(0), edit.expected(), edit.operand(1).reshape(-1)
    assert given is not None
    wrong = {
        k: e // d for k, (d, r, e) in enumerate(zip(given.shape, repeats, expected, strict=True)) if d and d * int(r) != e
    }
    if wrong:
        edit.override(1, wrong)


ROWS: dict[tuple[str, str], Row] = {
    ("", "Reshape"): reshape,
    ("", "Expand"): expand,
    ("", "Resize"): resize,
    ("", "Slice"): slice_,
    ("", "Split"): split,
    ("", "Gather"): gather,
    ("", "Tile"): tile,
}
