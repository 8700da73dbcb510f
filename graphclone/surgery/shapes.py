"""Rewrites what encodes a size, one row an operator, called by the resizer before the clone's node is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.parts import Ids
from graphclone.anatomy.segments import PRODUCTS
from graphclone.anatomy.trace import Value, describe
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.cut import Cut
from graphclone.surgery.divisors import SAME, added, divisor, mean_by_a_column
from graphclone.surgery.head_scale import attention_scale, attribute_scale
from graphclone.surgery.resizer import Edit, Row


def reshape(edit: Edit) -> None:
    """Elements of the target: copied (0), inferred (-1) or spelled out."""
    expected, asked = edit.expected(), edit.operand(1).reshape(-1)
    given = edit.after(0)
    assert given is not None
    copies = not edit.node.attrs.get("allowzero", 0)
    resolved = [given.shape[i] if d == 0 and copies else int(d) for i, d in enumerate(asked)]
    _target(edit, 1, resolved, expected, inferred=-1)


def expand(edit: Edit) -> None:
    """Elements of 1 follow the input."""
    expected, asked = edit.expected(), [int(d) for d in edit.operand(1).reshape(-1)]
    axes = range(len(expected) - len(asked), len(expected))
    _target(edit, 1, [d if d != 1 else expected[a] for d, a in zip(asked, axes, strict=True)], expected, axes=axes)


def constant_of_shape(edit: Edit) -> None:
    """The input is the shape."""
    _target(edit, 0, [int(d) for d in edit.operand(0).reshape(-1)], edit.expected())


def resize(edit: Edit) -> None:
    """The sizes of an image spell out its channels too, where they are not those of some axes alone."""
    if len(edit.node.inputs) > 3 and not edit.node.inputs[3].is_empty():
        expected = edit.expected()
        axes = [int(axis) % len(expected) for axis in edit.node.attrs.get("axes") or range(len(expected))]
        _target(edit, 3, [int(d) for d in edit.operand(3)], expected, axes=axes)


def _target(
    edit: Edit,
    index: int,
    resolved: list[int],
    expected: tuple[int, ...],
    inferred: int | None = None,
    axes: Sequence[int] | None = None,
) -> None:
    """Override the elements of a target shape that miss the expected one. axes: of which they are, if not of all."""
    axes = range(len(expected)) if axes is None else axes
    output = edit.node.outputs[0].name
    wrong: dict[int, int] = {}
    dynamic: dict[int, tuple[int, int]] = {}
    for k, (have, axis) in enumerate(zip(resolved, axes, strict=True)):
        want = expected[axis]
        if have in (want, inferred):
            continue
        if not isinstance(edit.node.inputs[index], gs.Constant) and edit.cut.varies(output, axis):
            dynamic[k] = (want, have)
        else:
            wrong[k] = want
    if isinstance(edit.node.inputs[index], gs.Constant) and inferred is not None and inferred not in resolved:
        # a constant that spells out a size which follows the batch is right only for that batch: let it be inferred
        wrong = {k: (inferred if edit.cut.varies(output, axes[k]) else v) for k, v in wrong.items()}
    if inferred is not None and inferred not in resolved and len(dynamic) == 1:
        # a division by the parent's number of heads has rounded already: infer the element instead of scaling it
        wrong, dynamic = wrong | {next(iter(dynamic)): inferred}, {}
    if wrong or dynamic:
        edit.override(index, wrong, dynamic)


def slice_(edit: Edit) -> None:
    """Starts and ends count neurons: recount them among those that stay."""
    starts, ends = _listed(edit, "starts", 1), _listed(edit, "ends", 2)
    old_starts, old_ends = _listed_before(edit, "starts", 1), _listed_before(edit, "ends", 2)
    assert starts is not None
    assert ends is not None
    count = starts.size
    axes, steps = _listed(edit, "axes", 3), _listed(edit, "steps", 4)
    axes = np.arange(count) if axes is None else axes
    steps = np.ones(count, np.int64) if steps is None else steps
    source, given = edit.before(0), edit.after(0)
    assert given is not None
    wrong_starts, wrong_ends = {}, {}
    for k in range(count):
        axis = int(axes[k]) % len(source.shape)
        full, step = source.shape[axis], int(steps[k])
        chosen = np.arange(full)[int(old_starts[k]) : int(old_ends[k]) : step]
        wanted = _recount(edit, source, axis, chosen)
        if np.array_equal(np.arange(given.shape[axis])[int(starts[k]) : int(ends[k]) : step], wanted):
            continue
        start, end = _as_range(edit, wanted, step)
        wrong_starts[k], wrong_ends[k] = start, end
    if wrong_starts:
        _override_listed(edit, "starts", 1, wrong_starts)
        _override_listed(edit, "ends", 2, wrong_ends)


def _listed(edit: Edit, name: str, place: int) -> Ids | None:
    """Numbers that older operator sets hold in an attribute, newer ones in an operand."""
    if name in edit.node.attrs:
        return np.asarray(edit.node.attrs[name], np.int64)
    given = place < len(edit.node.inputs) and not edit.node.inputs[place].is_empty()
    return edit.operand(place).reshape(-1) if given else None


def _listed_before(edit: Edit, name: str, place: int) -> Ids:
    """The parent's."""
    if name in edit.parent.attrs:
        return np.asarray(edit.parent.attrs[name], np.int64)
    data = edit.before(place).data
    assert data is not None
    return data.reshape(-1)


def _override_listed(edit: Edit, name: str, place: int, wrong: dict[int, int]) -> None:
    if name in edit.node.attrs:
        edit.node.attrs[name] = [wrong.get(k, int(held)) for k, held in enumerate(edit.node.attrs[name])]
    else:
        edit.override(place, wrong)


def _recount(edit: Edit, source: Value, axis: int, chosen: Ids) -> Ids:
    """Positions of the parent's axis as positions of the clone's, the dropped ones left out."""
    living = edit.cut.living(source.axis(axis), source.shape[axis])
    return (np.cumsum(living) - 1)[chosen[living[chosen]]]


def _as_range(edit: Edit, wanted: Ids, step: int) -> tuple[int, int]:
    if wanted.size == 0 or step < 1 or not np.array_equal(wanted, wanted[0] + step * np.arange(wanted.size)):
        raise UnsupportedGraph(
            f"{describe(edit.node)}: the neurons kept are no longer every {step}th of a range: "
            f"keep whole strides of them"
        )
    return int(wanted[0]), int(wanted[-1]) + 1


def split(edit: Edit) -> None:
    """As attribute, as input, or equal parts."""
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
    if not wanted.size and not have.ndim:  # a dropped neuron, read for its shape alone: any other does
        wanted = np.zeros(1, np.int64)
    if not np.array_equal(have.reshape(-1), wanted):
        edit.replace(1, wanted.reshape((-1, *have.shape[1:]) if have.ndim else ()).astype(have.dtype))


def gather_nd(edit: Edit) -> None:
    """The same, where the indices are a list into the first axis."""
    indices = edit.before(1)
    if indices.shape[-1] == 1 and len(indices.shape) == 2 and not edit.node.attrs.get("batch_dims"):
        gather(edit)


def tile(edit: Edit) -> None:
    """Repeats of the axes that grow."""
    given, expected, repeats = edit.after(0), edit.expected(), edit.operand(1).reshape(-1)
    assert given is not None
    wrong = {
        k: e // d
        for k, (d, r, e) in enumerate(zip(given.shape, repeats, expected, strict=True))
        if d and d * int(r) != e
    }
    if wrong:
        edit.override(1, wrong)


MOVES = (
    *("Cast", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Dropout"),
    *("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"),
)
ROOTS = (0.5, -0.5)  # powers of a size that models multiply by: embeddings by sqrt(hidden), tied heads by its inverse


@dataclass(frozen=True)
class Root:
    """full ** power, on a residual stream of ``full`` of which ``kept`` stay."""

    full: int
    kept: int
    power: float


def root_of(cut: Cut, node: gs.Node, place: int) -> Root | None:
    """What a Mul's or Div's operand is a root of, where the other is a residual stream that is cut."""
    held, source = cut.trace.input(node, place), cut.trace.input(node, 1 - place)
    data = held.data if held is not None and held.static else None
    if data is None or source is None or data.size != 1 or data.dtype.kind not in "fV":
        return None
    root = _of_stream(cut, float(data.reshape(-1)[0]), source)
    down = root is not None and (root.power < 0) == (node.op == "Mul")
    return None if down and not _read_by_products(node.outputs[0]) else root  # only before a head: else a coincidence


def _read_by_products(tensor: gs.Tensor) -> bool:
    """And by nothing else, moves apart."""
    readers = list(tensor.outputs)
    return bool(readers) and all(n.op in PRODUCTS or n.op in MOVES and _read_by_products(n.outputs[0]) for n in readers)


def _of_stream(cut: Cut, value: float, source: Value) -> Root | None:
    """A number as a root of the width of the residual stream that ``source`` carries, where that is cut."""
    for factors, full in zip(source.factors, source.shape, strict=True):
        if any(g.kind == "residual" for g in cut.found.on(factors)):
            power = next((p for p in ROOTS if abs(value - full**p) <= SAME * full**p), None)
            kept = cut.size(factors, full)
            if kept != full and power is not None:
                return Root(full, kept, power)
    return None


def scalar(edit: Edit) -> None:
    """A factor on the residual stream that is a root of its width follows it; what makes a mean of a sum, its length;
    on attention, the width of a head."""
    for place in range(2):
        root = root_of(edit.cut, edit.parent, place)
        number = divisor(edit.cut, edit.parent, place) if root is None else root.kept**root.power
        if number is not None:
            data = edit.operand(place)
            edit.replace(place, np.full(data.shape, number).astype(data.dtype))
            return
    attention_scale(edit)


def product_scale(edit: Edit) -> None:
    """alpha of a product that took such a factor in."""
    for place in range(2):
        root = _of_stream(edit.cut, float(edit.node.attrs.get("alpha", 1.0)), edit.before(place))
        if root is not None:
            edit.node.attrs["alpha"] = float(root.kept**root.power)
            return
    attribute_scale(edit)


FUSED = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
ROWS: dict[tuple[str, str], Row] = {
    ("", "Reshape"): reshape,
    ("", "Expand"): expand,
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "Resize"): resize,
    ("", "Slice"): slice_,
    ("", "Split"): split,
    ("", "Gather"): gather,
    ("", "GatherND"): gather_nd,
    ("", "Tile"): tile,
    ("", "Add"): added,
    ("", "MatMul"): mean_by_a_column,
    ("", "Mul"): scalar,
    ("", "Div"): scalar,
    ("", "Attention"): attribute_scale,
    ("com.microsoft", "FusedMatMul"): product_scale,
    **{("com.microsoft", op): attribute_scale for op in FUSED},
}
