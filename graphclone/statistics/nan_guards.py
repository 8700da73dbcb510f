"""Leaves out what exporters put behind a softmax for rows that may attend to nothing: Where(IsNaN(p), 0, p).

The guard reads and writes the largest activation of the model twice more, and does nothing on almost all data. A probe
leaves it out; a batch whose sums are not finite then is run again as exported.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs


def leave_out(graph: gs.Graph, shown: Collection[str] = ()) -> int:
    """Let what reads a guard read its softmax, in place; how many guards there were.

    shown: names of values that something else reads; a guard that makes one stays.
    """
    kept = {tensor.name for tensor in graph.outputs} | set(shown)
    guards = [node for node in graph.nodes if _is_guard(node) and node.outputs[0].name not in kept]
    for guard in guards:
        _, _, probabilities = guard.inputs
        (guarded,) = guard.outputs
        for reader in list(guarded.outputs):
            reader.inputs = [probabilities if tensor is guarded else tensor for tensor in reader.inputs]
        guard.outputs.clear()
    return len(guards)


def _is_guard(node: gs.Node) -> bool:
    if node.op != "Where" or len(node.inputs) != 3:
        return False
    question, instead, probabilities = node.inputs
    return (
        _made_by(question, "IsNaN")
        and question.inputs[0].inputs[0] is probabilities
        and _made_by(probabilities, "Softmax")
        and isinstance(instead, gs.Constant)
        and instead.values.size == 1
    )


def _made_by(tensor: gs.Tensor, op: str) -> bool:
    return len(tensor.inputs) == 1 and tensor.inputs[0].op == op
