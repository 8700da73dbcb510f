"""Branches that are always taken: an If whose condition is a constant is the branch that it chooses.

TorchScript writes one for every squeeze of an axis that it is not sure of; optimisers fold the condition and leave the
If. Conditions that depend on what is fed stay, with the refusal of whatever traced value enters them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

Owners = dict[str, set[int]]  # a name -> the tensors that go by it


def inline_branches(graph: gs.Graph) -> int:
    """Replace each such If by the nodes of its branch, in place, branches within branches too; how many there were."""
    count = 0
    nodes: list[gs.Node] = []
    waiting = list(reversed(graph.nodes))
    owners = _owners(graph) if any(node.op == "If" for node in waiting) else {}
    while waiting:
        node = waiting.pop()
        taken = _condition(node.inputs[0]) if node.op == "If" and node.inputs else None
        if taken is None:
            nodes.append(node)
        else:
            waiting += reversed(_branch(node, taken, owners))
            count += 1
    graph.nodes[:] = nodes
    return count


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


def _branch(node: gs.Node, taken: bool, owners: Owners) -> list[gs.Node]:
    body: gs.Graph = node.attrs["then_branch" if taken else "else_branch"]
    outputs = list(node.outputs)
    node.outputs.clear()
    node.inputs.clear()
    _part_names(body, outputs[0].name, owners)
    made = list(body.nodes)
    for inside, outside in zip(body.outputs, outputs, strict=True):
        # an Identity, as one tensor of a body may be several of its outputs, or come from around it
        made.append(gs.Node("Identity", f"{outside.name}_taken", inputs=[inside], outputs=[outside], domain=""))
    return made


def _owners(graph: gs.Graph) -> Owners:
    found: Owners = {}
    for part in (graph, *graph.subgraphs(recursive=True)):
        for tensor in (*part.inputs, *part.outputs, *_read(part), *_made(part)):
            found.setdefault(tensor.name, set()).add(id(tensor))
    return found


def _read(graph: gs.Graph) -> Iterator[gs.Tensor]:
    return (tensor for node in graph.nodes for tensor in node.inputs if tensor.name)


def _made(graph: gs.Graph) -> Iterator[gs.Tensor]:
    return (tensor for node in graph.nodes for tensor in node.outputs if tensor.name)


def _part_names(body: gs.Graph, stem: str, owners: Owners) -> None:
    """Bodies beside each other may give one name to several tensors, which meet where both are inlined: what a body
    makes or holds gets another name then. What it takes from around it is the same tensor everywhere, and alone."""
    constants = (tensor for tensor in (*_read(body), *body.outputs) if isinstance(tensor, gs.Constant))
    for tensor in (*_made(body), *constants):
        if len(owners[tensor.name]) > 1:
            owners[tensor.name].discard(id(tensor))
            name = f"{stem}_{tensor.name}"
            while name in owners:
                name += "_"
            tensor.name = name
            owners[name] = {id(tensor)}
