"""Branches that are always taken: an If whose condition is a constant is the branch that it chooses.

TorchScript writes one for every squeeze of an axis that it is not sure of; optimisers fold the condition and leave the
If. Conditions that depend on what is fed stay, with the refusal of whatever traced value enters them.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def inline_branches(graph: gs.Graph) -> None:
    """Replace each such If by the nodes of its branch, in place, branches within branches too."""
    nodes: list[gs.Node] = []
    waiting = list(reversed(graph.nodes))
    while waiting:
        node = waiting.pop()
        taken = _condition(node.inputs[0]) if node.op == "If" and node.inputs else None
        if taken is None:
            nodes.append(node)
        else:
            waiting += reversed(_branch(node, taken))
    graph.nodes[:] = nodes


def _condition(tensor: gs.Tensor) -> bool | None:
    """What a condition is, where nothing that is fed decides it."""
    turned = False
    while not isinstance(tensor, gs.Constant):
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or maker.op not in ("Not", "Identity", "Cast"):
            return None
        turned ^= maker.op == "Not"
        tensor = maker.inputs[0]
    return bool(tensor.values.reshape(-1)[0]) ^ turned if tensor.values.size == 1 else None


def _branch(node: gs.Node, taken: bool) -> list[gs.Node]:
    body: gs.Graph = node.attrs["then_branch" if taken else "else_branch"]
    outputs = list(node.outputs)
    node.outputs.clear()
    node.inputs.clear()
    made = list(body.nodes)
    for inside, outside in zip(body.outputs, outputs, strict=True):
        # an Identity, as one tensor of a body may be several of its outputs, or come from around it
        made.append(gs.Node("Identity", f"{outside.name}_taken", inputs=[inside], outputs=[outside], domain=""))
    return made
