"""pca: the clone's stream is spanned by the directions that hold most of it, instead of by neurons.

An RMSNorm without gain commutes with every rotation of the stream: with the gains moved into the products that read
them, all that writes may write V^T x and all that reads may read it, for any orthonormal V, and nothing changes
(SliceGPT, Ashkboos et al. 2024, arXiv 2401.15024). V is the first eigenvectors of the mean over norms of E[u u^T], u
what the norm gives without gain: every norm has one vote. The clone keeps as many as its width, and every norm gets the
factor that restores its second moment there (see norm_gain)

    c^2 = tr(V^T E[u u^T] V) / k + (1 - tr(E[u u^T]) / d)

A head tied to the embedding is untied, as the last norm's gain goes into it. Refused where it is not exact: LayerNorms
subtract a mean, post-norms and factors a neuron stand between the stream's sums, a caller sees the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.normalisations import FAR_ENOUGH
from graphclone.anatomy.parts import Anatomy, Norm, Site
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import describe, node_key
from graphclone.errors import InvalidTarget
from graphclone.surgery.corrections.evidence import Array, Evidence
from graphclone.surgery.corrections.fitting import ENOUGH
from graphclone.surgery.corrections.least_squares import bias_of
from graphclone.surgery.corrections.norm_gain import source
from graphclone.surgery.corrections.paper import OUTPUT, uses_of
from graphclone.surgery.corrections.readers import readers
from graphclone.surgery.shapes import root_of
from graphclone.surgery.slice_weights import Correction, Use

NAME = "pca"
INDEX = ("Gather", "GatherND", "Slice", "Split")  # along other axes
MOVES = ("Cast", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Dropout", "Shape")
SUMS = ("Add", "Sum", "Sub")


def refuse(anatomy: Anatomy) -> None:
    """Raises InvalidTarget for stacks whose norms do not commute with a rotation of the stream."""
    for stack in anatomy.stacks:
        over = [n for n in (*stack.norms, *(m for b in stack.blocks for m in b.norms)) if n.site]
        kinds = {n.kind for n in over} - {"RMSNorm"}
        if kinds:
            _refuse(f"{stack.name} has a {kinds.pop()}, which subtracts a mean")
        if any(n.placement == "post" for n in over):
            _refuse(f"{stack.name} norms the stream itself (post-norm)")
    if len(anatomy.stacks) != 1:
        _refuse(f"the model has {len(anatomy.stacks)} streams")


def _refuse(reason: str) -> None:
    raise InvalidTarget(f"method {NAME} is for one stream with pre-norm RMSNorms alone: {reason}; leave {NAME} out")


def basis(evidence: Evidence) -> Array | None:
    """V, float64 [all, kept]; None where the stream stays whole. Raises InvalidTarget where it is not exact."""
    refuse(evidence.anatomy)
    measured = [(norm, site) for norm, site in evidence.norms if evidence.cut.kept(site).size < site.width]
    if not measured:
        return None
    _refuse_what_does_not_turn(evidence)
    total = np.mean([_second(evidence, site) for _, site in measured], axis=0)
    _, vectors = np.linalg.eigh(total)
    chosen = vectors[:, ::-1][:, : evidence.cut.kept(measured[0][1]).size]
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    return np.asarray(chosen * signs)


def _second(evidence: Evidence, site: Site) -> Array:
    """E[u u^T] at a norm."""
    held = evidence.second_pass(NAME).sites.get(f"{site.name}.{NAME}", {})
    count = float(held["moment_count"][0]) if "moment" in held else 0.0
    if count < ENOUGH * site.width:
        raise InvalidTarget(
            f"method {NAME}: moments of {count:.0f} tokens at {site.name}, {ENOUGH * site.width} are needed "
            f"({ENOUGH} a neuron): measure more"
        )
    return np.asarray(held["moment"] / count)


def pca(evidence: Evidence) -> dict[Use, Correction]:
    """Everything that stands along the stream, turned; gains as what is left of them."""
    turn = evidence.basis
    if turn is None:
        return {}
    found: dict[Use, Correction] = {}
    turned: dict[Use, Correction] = {}
    for norm, site in evidence.norms:
        second = _second(evidence, site)
        factor = math.sqrt(max(np.einsum("ik,ij,jk->", turn, second, turn, optimize=True) / turn.shape[1], 0.0))
        factor = math.sqrt(factor**2 + max(1.0 - float(np.trace(second)) / site.width, 0.0))
        evidence.notes[f"{site.name}.{NAME}"] = {"energy kept": factor**2 * turn.shape[1] / site.width}
        gain = _gain(evidence, norm, factor, found)
        for p in readers(evidence, norm):
            turned[_use(p)] = Correction(values=_turned(evidence, _use(p), turn * gain[:, None]))
    for p in evidence.products:
        if p.output in evidence.onto_the_stream and p.output in evidence.living:
            for use in (_use(p), bias_of(p)):
                if use is not None:
                    turned[use] = Correction(values=_turned(evidence, use, turn))
    for use, tensor in _along_the_stream(evidence):
        if use in found or use in turned:
            continue
        node = evidence.nodes[use[0]]
        if node.op != "Gather" or use[1] != 0:
            _refuse(f"{describe(node)} meets the stream neuron by neuron, with {tensor.name}")
        turned[use] = Correction(values=_turned(evidence, use, turn))
    return found | turned


def _gain(evidence: Evidence, norm: Norm, factor: float, found: dict[Use, Correction]) -> Array:
    """The parent's gain, which goes into the readers; the clone's is the factor alone."""
    if norm.gain_at is None:
        found[norm.output, OUTPUT] = Correction(factor)
        return np.ones(norm.width)
    behind = source(evidence, norm.gain_at)
    if behind is None:
        _refuse(f"the gain of the norm that makes {norm.output} is computed")
        raise AssertionError
    use, added = behind
    found[use] = Correction(values=np.full(evidence.sliced(use).shape, factor - added))
    return np.broadcast_to(evidence.tensor(use).values.astype(np.float64).reshape(-1) + added, norm.width)


def _use(p: Projection) -> Use:
    uses = uses_of(p)
    if len(uses) != 1:
        _refuse(f"the weight of {describe(p.node)} is not found beside it")
    return uses[0]


def _turned(evidence: Evidence, use: Use, turn: Array) -> Array:
    """A weight, cut along all its other axes, its axis along the stream turned."""
    tensor = evidence.tensor(use)
    values: Array = tensor.values
    if values.dtype.kind not in "fV":
        _refuse(f"{tensor.name} holds {values.dtype}, which cannot be turned")
    (axis,) = _stream_axes(evidence, tensor.name, use)
    for other, take in evidence.cut.takes(tensor.name, use).items():
        if other != axis:
            values = np.take(values, take, axis=other)
    return np.moveaxis(np.tensordot(values.astype(np.float64), turn, axes=(axis, 0)), -1, axis)


def _stream_axes(evidence: Evidence, tensor: str, use: Use) -> list[int]:
    found = evidence.cut.found
    residual = evidence.anatomy.stacks[0].residual
    slots = evidence.cut.slots(tensor, use)
    along = [
        axis
        for axis, slot in slots.items()
        if any(g.name == residual for g in found.on((np.arange(slot.start, slot.start + slot.size),)))
    ]
    if len(along) > 1:
        _refuse(f"{tensor} stands along the stream with {len(along)} axes")
    return along


def _along_the_stream(evidence: Evidence) -> Iterator[tuple[Use, gs.Tensor]]:
    """Every use of an initializer, by what stays, that stands along the stream."""
    for node in evidence.cut.trace.model.graph.nodes:
        for place, tensor in enumerate(node.inputs):
            use = (node_key(node), place)
            living = isinstance(tensor, gs.Constant) and use[0] in evidence.living
            if living and _stream_axes(evidence, tensor.name, use):
                yield use, tensor


def _refuse_what_does_not_turn(evidence: Evidence) -> None:
    """Between sums, norms and products nothing may look at single neurons of the stream."""
    trace, found = evidence.cut.trace, evidence.cut.found
    residual = next(k for k, g in enumerate(found.groups) if g.name == evidence.anatomy.stacks[0].residual)
    seen = [t.name for t in trace.model.graph.outputs if residual in found.of_value.get(t.name, ())]
    if seen:
        _refuse(f"the caller sees the stream in {seen[0]}")
    inside = {key for norm, _ in evidence.norms for key in _interior(evidence, norm)}
    reading = {p.output for norm, _ in evidence.norms for p in readers(evidence, norm)}
    for node in trace.model.graph.nodes:
        key = node_key(node)
        streams = [t for t in node.inputs if isinstance(t, gs.Variable) and residual in found.of_value.get(t.name, ())]
        if key not in evidence.living or key in inside or not streams:
            continue
        kept = residual in found.of_value.get(key, ())
        passed = node.op in (*MOVES, *SUMS) or (node.op in INDEX and kept) or key in reading
        if not passed and not _by_a_number(evidence, node):
            _refuse(f"{describe(node)} reads the stream and is no sum, norm or product of a normed stream")


def _by_a_number(evidence: Evidence, node: gs.Node) -> bool:
    """A factor that is no root of the width, which would have to follow it."""
    if node.op not in ("Mul", "Div") or any(root_of(evidence.cut, node, place) for place in range(2)):
        return False
    return any(isinstance(t, gs.Constant) and t.values.size == 1 for t in node.inputs)


def _interior(evidence: Evidence, norm: Norm) -> set[str]:
    """The nodes between what a norm reads and what it gives."""
    found: set[str] = set()
    queue = [evidence.nodes[norm.output]]
    if queue[0].op.endswith("Normalization"):
        return {node_key(queue[0])}
    for node in queue:
        if node_key(node) in found or len(found) > 2 * FAR_ENOUGH:
            continue
        found.add(node_key(node))
        makers = (evidence.nodes.get(t.name) for t in node.inputs if t.name != norm.input)
        queue += [maker for maker in makers if maker is not None]
    return found
