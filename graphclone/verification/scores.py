"""What attention divides scores by: the root of a head's width, which in the zeroed parent is as wide as before.

There it divides by what the clone does: a constant or an attribute, which ``nodes`` holds against the parent's, a
number that the clone computes from its own shapes, or what an operator takes where it is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.claims import Claims
from graphclone.verification.forms import constant, name_of
from graphclone.verification.norms import dims_of, unsized
from graphclone.verification.sessions import open_session
from graphclone.verification.zeroed import FLOATS, Ambiguous

Array = np.ndarray[Any, Any]
HEADS = {  # fused attentions -> the attribute that counts heads; all have a scale
    "Attention": ("num_heads", "q_num_heads"),
    "MultiHeadAttention": ("num_heads",),
    "GroupQueryAttention": ("num_heads",),
}


def follow(reference: Model, clone: Model, claims: Claims, fed: Mapping[str, Array]) -> None:
    """Have the zeroed parent divide as the clone does on what it is fed, in place.

    Raises Ambiguous where it is not told by what, UnsupportedGraph where the clone does not run.
    """
    twins = {name_of(node): node for node in clone.graph.nodes}
    dims = dims_of(clone)
    for node in reference.graph.nodes:
        twin = twins.get(name_of(node))
        if "Attention" in node.op and node.op not in HEADS:
            raise Ambiguous(f"it is not known what {node.op} divides scores by")
        if twin is None or twin.op != node.op:
            continue
        if node.op in HEADS and not float(twin.attrs.get("scale", 0.0)):
            node.attrs["scale"] = float(_width(twin, dims) ** -0.5)
        for place, tensor in enumerate(twin.inputs[: len(node.inputs)]):
            claim = claims.slices.get(tensor.name) if isinstance(tensor, gs.Constant) else None
            if claim is not None and claim.shape_constant and str(tensor.dtype) in FLOATS:
                node.inputs[place] = gs.Constant(f"{name_of(node)}@{place}", _like(tensor.values, node.inputs[place]))
    _take_counted(reference, clone, fed)


def _like(values: Array, old: gs.Tensor) -> Array:
    """One number for the several equal ones of a vector."""
    alike = isinstance(old, gs.Constant) and values.size == 1
    return np.full(old.values.shape, values.reshape(-1)[0]) if alike else values


def _width(node: gs.Node, dims: Mapping[str, tuple[int, ...]]) -> int:
    """Of a head of the clone's."""
    heads = next((int(node.attrs[name]) for name in HEADS[node.op] if name in node.attrs), 0)
    sizes = dims.get(node.inputs[0].name, ())
    if node.op == "Attention" and node.domain:
        weight = constant(node.inputs[1])
        packed = 0 if weight is None else int(weight.shape[-1]) // 3
        whole = int(node.attrs.get("qkv_hidden_sizes", [packed])[0])
    else:
        alone = node.op == "Attention" or (len(node.inputs) > 1 and not node.inputs[1].is_empty())
        whole = sizes[-1] if alone and len(sizes) == 3 else 0
        if len(sizes) == 4 and node.op == "Attention":
            whole, heads = sizes[-1], 1
    if not whole or not heads:
        raise Ambiguous(f"it is not told how wide the heads of {node.op} node {node.name!r} are")
    return whole // heads


def _take_counted(reference: Model, clone: Model, fed: Mapping[str, Array]) -> None:
    """Single numbers that are computed from shapes alone are the clone's."""
    names = {name_of(node) for node in _counted(clone.graph)} & {name_of(n) for n in reference.graph.nodes}
    if not names:
        return
    shown = clone.copy()
    made = {t.name: t for node in shown.graph.nodes for t in node.outputs}
    casts = {name_of(node): node for node in shown.graph.nodes}
    for name in sorted(names):
        made[name].dtype = onnx.helper.tensor_dtype_to_np_dtype(int(casts[name].attrs["to"]))
    shown.graph.outputs += [made[name] for name in sorted(names) if made[name] not in shown.graph.outputs]
    found = open_session(shown).run(fed)
    numbers = {name: gs.Constant(f"{name}@clone", found[name]) for name in names if found[name].size == 1}
    for node in reference.graph.nodes:
        node.inputs = [numbers.get(t.name, t) for t in node.inputs]


def measured(model: Model, fed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Sizes of what norms average that are not told beforehand, as heads are split by sizes computed: of a run."""
    names = unsized(model)
    if not names:
        return {}
    shown = model.copy()
    tensors = shown.graph.tensors()
    sizes = {name: gs.Variable(f"{name}@sizes", np.int64, [None]) for name in names}
    shown.graph.nodes += [gs.Node("Shape", size.name, {}, [tensors[n]], [size]) for n, size in sizes.items()]
    shown.graph.outputs += sizes.values()
    found = open_session(shown).run(fed)
    return {name: tuple(map(int, found[size.name])) for name, size in sizes.items()}


def _counted(graph: gs.Graph) -> Iterator[gs.Node]:
    """Casts to a float of what is computed from shapes and constants alone."""
    known: set[str] = set()
    for node in graph.nodes:
        given = [t for t in node.inputs if not t.is_empty()]
        counts = any(t.name in known for t in given)
        counts = counts and all(isinstance(t, gs.Constant) or t.name in known for t in given)
        if node.op == "Cast" and counts and str(_kind(node)) in FLOATS:
            yield node
        elif node.op in ("Shape", "Size") or counts:
            known |= {t.name for t in node.outputs}


def _kind(node: gs.Node) -> Any:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
