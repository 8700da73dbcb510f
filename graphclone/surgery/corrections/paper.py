"""The paper's weight scaling: every weight whose fan-in shrinks writes with the deviation that it had.

``paper`` (arXiv 2312.09299): a weight whose fan-in shrinks from d to d' is multiplied by sqrt(d/d'), so that what it
writes keeps its deviation; gains and biases stay. A head tied to the embedding cannot be scaled, as the embedding
would be scaled too: the final norm's gain and bias take the factor, which is the same function; where no norm can (the
caller sees its output, or something else reads it), the head's output is multiplied.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.normalisations import FAR_ENOUGH
from graphclone.anatomy.projections import Projection
from graphclone.anatomy.trace import Trace, describe, node_key
from graphclone.errors import UnsupportedGraph
from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.slice_weights import Correction, Use

OUTPUT = -1  # in a Use: not an input, the product itself


def paper(evidence: Evidence) -> dict[Use, Correction]:
    """Scale of each use of a weight."""
    cut, made = evidence.cut, evidence.products
    scales: dict[Use, Correction] = {}
    products = Counter(p.weight for p in made)
    uses = Counter(t.name for n in cut.trace.model.graph.nodes for t in n.inputs)
    for p in made:
        full = cut.trace.values[p.input].shape[p.input_axis]
        kept = cut.size(p.input_factors, full)
        if kept == full:
            continue
        tied = p.weight in cut.trace.shared and uses[p.weight] > products[p.weight]  # not only products read it
        where = (_norm_before(cut.trace, p) or [(p.output, OUTPUT)]) if tied else uses_of(p)
        scales |= dict.fromkeys(where, Correction(math.sqrt(full / kept)))
    return scales


def uses_of(p: Projection) -> list[Use]:
    """Where the weight enters: at the product, or before the Transpose or Cast that it passes first. Integers are not
    scaled: the numbers that multiply them are."""
    node, multiplier = p.node, None
    for _ in range(FAR_ENOUGH):
        for position, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.values.dtype.kind in "fV" and node.op == "Mul":
                multiplier = (node_key(node), position)
            if isinstance(tensor, gs.Constant) and tensor.name == p.weight:
                if tensor.values.dtype.kind in "fV":
                    return [(node_key(node), position)]
                return [multiplier] if multiplier else _unscalable(p)
        above = [t.inputs[0] for t in node.inputs if t.inputs and t.name != p.input]
        if not above:
            break
        node = above[0]
    return []


def _unscalable(p: Projection) -> list[Use]:
    raise UnsupportedGraph(
        f"{describe(p.node)}: its weight {p.weight} holds integers that nothing multiplies: clone with method none"
    )


def _norm_before(trace: Trace, p: Projection) -> list[Use]:
    """Gain and bias of the norm whose output the projection alone reads; empty where there is none."""
    tensor = next(t for t in p.node.inputs if t.name == p.input)
    uses: list[Use] = []
    seen_by_caller = {t.name for t in trace.model.graph.outputs}
    for _ in range(FAR_ENOUGH):
        readers = [n for n in tensor.outputs if n.op != "Shape"]
        if not tensor.inputs or len(readers) > 1 or tensor.name in seen_by_caller:
            return []
        node = tensor.inputs[0]
        if node.op.endswith("Normalization") and len(node.inputs) > 1:
            return [*uses, *((node_key(node), k) for k in range(1, len(node.inputs)))]
        vectors = [
            k for k, t in enumerate(node.inputs) if isinstance(t, gs.Constant) and t.values.ndim and t.values.size > 1
        ]
        if node.op in ("Mul", "Add") and len(vectors) == 1:
            uses.append((node_key(node), vectors[0]))
            if node.op == "Mul":
                return uses
        elif node.op not in ("Cast", "Identity", "Reshape", "Mul", "Div"):  # Mul and Div by a scalar, here
            return []
        varying = [t for t in node.inputs if isinstance(t, gs.Variable)]
        if len(varying) > 1 and node.op != "Reshape":
            return []
        tensor = varying[0]
    return []


def scale_outputs(graph: gs.Graph, corrections: dict[Use, Correction]) -> list[str]:
    """Multiply the products whose factor nothing before them can carry; names of the constants that do."""
    names = []
    for (key, place), correction in corrections.items():
        if place != OUTPUT:
            continue
        node = next(n for n in graph.nodes if node_key(n) == key)
        output = node.outputs[0]
        plain = gs.Variable(f"{output.name}_unscaled", output.dtype)
        node.outputs[0] = plain
        constant = gs.Constant(f"{output.name}_scale", np.asarray(correction.scale).astype(output.dtype or np.float32))
        graph.nodes.insert(
            graph.nodes.index(node) + 1,
            gs.Node("Mul", f"{output.name}_scaled", inputs=[plain, constant], outputs=[output], domain=""),
        )
        names.append(constant.name)
    return names
