"""Is the clone a well-formed ONNX file with nothing dead in it? Reads the protobuf alone.

Weights are left as references to an empty file: the checker and shape inference look at types and shapes, and the
small constants that shapes are computed from stay inside the protobuf.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from graphclone.errors import one_line
from graphclone.verification.report import Check

_WEIGHTS = "weights"
NUMBER = re.compile(r"\d+")


def examine(parent: onnx.ModelProto, clone: onnx.ModelProto) -> list[Check]:
    """The structural checks; both protobufs with large initializers as references (graph.to_proto)."""
    return [
        _no_worse("onnx.checker", parent, clone, _checker),
        _no_worse("strict shape inference", parent, clone, _shape_inference),
        Check.of("no dead node", _dead_nodes(clone.graph), f"{len(clone.graph.node)} nodes, each reaches an output"),
        Check.of("no unused weight", _unused_weights(clone.graph), f"{len(clone.graph.initializer)} weights in use"),
        Check.of("no unused input", _unused_inputs(parent.graph, clone.graph), f"{len(clone.graph.input)} in use"),
    ]


def _no_worse(
    name: str, parent: onnx.ModelProto, clone: onnx.ModelProto, ask: Callable[[onnx.ModelProto], str | None]
) -> Check:
    """A complaint about the clone is a fault, unless the parent earns it as well: then the check says nothing."""
    complaint = ask(clone)
    if complaint and ask(parent):
        return Check.skipped(name, f"the parent is refused as well: {complaint}")
    return Check.of(name, [complaint] if complaint else [], "no complaint")


def _checker(proto: onnx.ModelProto) -> str | None:
    """onnx.checker with full_check, on a file whose weights are an empty file beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for tensor in copy.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                del tensor.external_data[:]
                tensor.external_data.add(key="location", value=_WEIGHTS)
        (Path(folder) / _WEIGHTS).touch()
        path.write_bytes(copy.SerializeToString())
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as reason:
            return one_line(reason, 300)
    return None


def _shape_inference(proto: onnx.ModelProto) -> str | None:
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as reason:
        return one_line(reason, 300)
    return None


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node takes from the graph that holds it, those its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            made = {i.name for i in graph.input} | {i.name for i in graph.initializer}
            made.update(name for inner in graph.node for name in inner.output)
            wanted = [name for inner in graph.node for name in _reads(inner)] + [o.name for o in graph.output]
            yield from (name for name in wanted if name not in made)


def _live(graph: onnx.GraphProto) -> tuple[set[str], set[int]]:
    """Names and node positions that some graph output depends on."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    names: set[str] = set()
    nodes: set[int] = set()
    waiting = [output.name for output in graph.output]
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        position = maker.get(name)
        if position is not None and position not in nodes:
            nodes.add(position)
            waiting.extend(_reads(graph.node[position]))
    return names, nodes


def _dead_nodes(graph: onnx.GraphProto) -> Iterator[str]:
    _, nodes = _live(graph)
    for i, node in enumerate(graph.node):
        if i not in nodes:
            yield f"node {node.name or i} ({node.op_type}) reaches no output"


def _unused_weights(graph: onnx.GraphProto) -> Iterator[str]:
    names, _ = _live(graph)
    for tensor in graph.initializer:
        if tensor.name not in names:
            yield f"initializer {tensor.name} {list(tensor.dims)} is used by nothing"


def _unused_inputs(parent: onnx.GraphProto, clone: onnx.GraphProto) -> Iterator[str]:
    used_before, _ = _live(parent)
    used, _ = _live(clone)
    known = {value.name for value in parent.input}
    numbered = {NUMBER.sub("#", name) for name in known}  # a block that is repeated has a cache with another number
    for value in clone.input:
        if value.name not in known and NUMBER.sub("#", value.name) not in numbered:
            yield f"input {value.name} is not one of the parent's"
        elif value.name not in used and value.name in used_before:
            yield f"input {value.name} is used by the parent and by nothing in the clone"
