"""Factors that are roots of the hidden size (Gemma's embedding times sqrt(d), T5's head times 1 / sqrt(d)) follow the
clone's width, as its architecture has them. What they multiply, a table or a norm's output, takes the inverse of the
change, so that the product is what it was; a head tied to such a table gives it back in the norm before it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphclone.anatomy.trace import node_key
from graphclone.surgery.corrections.evidence import Evidence
from graphclone.surgery.corrections.paper import OUTPUT
from graphclone.surgery.shapes import root_of
from graphclone.surgery.slice_weights import Correction, Use

STEPS = 6  # casts and moves between a table or a norm and what is multiplied
MOVES = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Expand", "Dropout")


@dataclass
class Drifts:
    """What has to be multiplied: uses of weights, and norms by their outputs."""

    weights: dict[Use, Correction] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, evidence: Evidence) -> Drifts:
        """Those of all roots on a residual stream that is cut."""
        found = cls()
        norms = {norm.output for norm, _ in evidence.norms}
        for node in evidence.cut.trace.model.graph.nodes:
            if node.op not in ("Mul", "Div") or node_key(node) not in evidence.living:
                continue
            for place in range(2):
                root = root_of(evidence.cut, node, place)
                if root is not None:
                    change = (root.kept / root.full) ** (root.power if node.op == "Mul" else -root.power)
                    found.behind(evidence, node.inputs[1 - place], 1.0 / change, norms)
        return found

    def behind(self, evidence: Evidence, tensor: gs.Tensor, factor: float, norms: set[str]) -> None:
        """Give the factor to what makes a value. A factor inside a norm has nobody to give to: it is the norm's."""
        for _ in range(STEPS):
            maker = tensor.inputs[0] if tensor.inputs else None
            if tensor.name in norms:
                self.norms[tensor.name] = self.norms.get(tensor.name, 1.0) * factor
            elif maker is not None and maker.op == "Gather" and isinstance(maker.inputs[0], gs.Constant):
                self._table(evidence, maker, factor, norms)
            elif maker is not None and maker.op in MOVES:
                tensor = maker.inputs[0]
                continue
            return

    def _table(self, evidence: Evidence, gather: gs.Node, factor: float, norms: set[str]) -> None:
        nodes, name = evidence.cut.trace.model.graph.nodes, gather.inputs[0].name
        readers = Counter(t.name for n in nodes for t in n.inputs)
        tied = name in evidence.cut.trace.shared and readers[name] > 1
        for node in nodes if tied else [gather]:
            for place, tensor in enumerate(node.inputs):
                if tensor.name == name:
                    self.weights[node_key(node), place] = Correction(factor)
        for p in evidence.products if tied else ():
            if p.weight == name and p.output in evidence.living:
                before = dict(self.norms)
                self.behind(
                    evidence,
                    evidence.nodes[p.output].inputs[_operand(p.node, p.input)],
                    1.0 / factor,
                    norms,
                )
                if self.norms == before:
                    self.weights[p.output, OUTPUT] = Correction(1.0 / factor)


def _operand(node: gs.Node, name: str) -> int:
    return next(k for k, t in enumerate(node.inputs) if t.name == name)
