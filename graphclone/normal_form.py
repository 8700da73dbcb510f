"""One form for what exporters and optimizers write in several: rows of (operator -> the nodes that say the same).

A fused skip-normalisation whose sum is used again hides the residual stream inside one node, where no block could be
joined or removed: it becomes the addition and the normalisation it stands for. ONNX Runtime fuses them again when it
loads the model.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

SUM = 3  # the output that carries input + skip (onnxruntime/docs/ContribOperators.md)


def normalise(graph: gs.Graph) -> None:
    """Rewrite the nodes that have a row, in place, in graph order: all of them, where any of them hides the stream (the
    last norm's sum is read by nobody, yet its block must look like the others)."""
    if not any((n.domain, n.op) in ROWS and _uses_sum(n) for n in graph.nodes):
        return
    nodes = []
    for node in graph.nodes:
        row = ROWS.get((node.domain, node.op))
        nodes += row(node) if row else [node]
    graph.nodes[:] = nodes


def _uses_sum(node: gs.Node) -> bool:
    return len(node.outputs) > SUM and bool(node.outputs[SUM].name) and bool(node.outputs[SUM].outputs)


def _unfuse(node: gs.Node, norm: str, bias_input: int) -> list[gs.Node]:
    inputs, outputs = list(node.inputs), list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    named = len(outputs) > SUM and bool(outputs[SUM].name)
    total = outputs[SUM] if named else gs.Variable(f"{outputs[0].name}_sum", outputs[0].dtype)
    made = [gs.Node("Add", f"{node.name}_sum", inputs=inputs[:2], outputs=[total], domain="")]
    if len(inputs) > bias_input and not inputs[bias_input].is_empty():
        partial = gs.Variable(f"{total.name}_before_bias", total.dtype)
        made[0].outputs[0] = partial
        made.append(
            gs.Node("Add", f"{node.name}_bias", inputs=[partial, inputs[bias_input]], outputs=[total], domain="")
        )
    weights = [t for t in inputs[2:bias_input] if not t.is_empty()]
    attributes = {"axis": -1, "epsilon": node.attrs.get("epsilon", 1e-5)}
    made.append(gs.Node(norm, node.name, attributes, [total, *weights], [outputs[0]], domain=""))
    return made


def _skip_norm(node: gs.Node) -> list[gs.Node]:
    """input, skip, gain, bias of the norm, bias added before."""
    return _unfuse(node, "LayerNormalization", 4)


def _skip_rms_norm(node: gs.Node) -> list[gs.Node]:
    """input, skip, gain, bias added before. ONNX Runtime keeps SimplifiedLayerNormalization in the standard domain."""
    return _unfuse(node, "SimplifiedLayerNormalization", 3)


ROWS: dict[tuple[str, str], Callable[[gs.Node], list[gs.Node]]] = {
    ("com.microsoft", "SkipLayerNormalization"): _skip_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
}
