"""Attributes that are empty lists: onnx-graphsurgeon forgets of what, and onnx does not write what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter


def exported(node: gs.Node) -> list[onnx.AttributeProto]:
    """A node's attributes."""
    full = {name: value for name, value in node.attrs.items() if not _is_empty(value)}
    made: list[onnx.AttributeProto] = OnnxExporter.export_attributes(full)
    return [*made, *_empty(node)]


@contextmanager
def without_empty(graphs: Iterable[gs.Graph]) -> Iterator[dict[str, list[onnx.AttributeProto]]]:
    """The graphs' nodes lack their empty lists meanwhile, so that onnx-graphsurgeon can write them: those, by the
    first named output of their node."""
    left: list[tuple[gs.Node, dict[str, object]]] = []
    found: dict[str, list[onnx.AttributeProto]] = {}
    for node in (node for graph in graphs for node in graph.nodes):
        if empty := _empty(node):
            found[next(t.name for t in node.outputs if t.name)] = empty
            left.append((node, dict(node.attrs)))
            for attribute in empty:
                del node.attrs[attribute.name]
    try:
        yield found
    finally:
        for node, attributes in left:
            node.attrs.clear()
            node.attrs.update(attributes)


def put_back(graph: onnx.GraphProto, empty: dict[str, list[onnx.AttributeProto]]) -> None:
    """Write them where they were, bodies too."""
    for node in graph.node if empty else ():
        node.attribute.extend(empty.get(next((name for name in node.output if name), ""), ()))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                put_back(attribute.g, empty)


def _is_empty(value: object) -> bool:
    return isinstance(value, list) and not value


def _empty(node: gs.Node) -> list[onnx.AttributeProto]:
    names = [name for name, value in node.attrs.items() if _is_empty(value)]
    return [onnx.helper.make_attribute(name, [], attr_type=_kind(node, name)) for name in names]


def _kind(node: gs.Node, name: str) -> int:
    """Of what the operator's attribute is a list; of whole numbers, where the operator is not onnx's."""
    try:
        declared: Any = onnx.defs.get_schema(node.op, node.domain or "").attributes[name].type
    except (onnx.defs.SchemaError, KeyError):
        return int(onnx.AttributeProto.INTS)
    return int(getattr(onnx.AttributeProto, declared.name))
