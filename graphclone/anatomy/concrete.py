"""Computes integers, masks and shapes for real during a trace, by onnx's own reference operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx.reference
import onnx.shape_inference
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from graphclone.attributes import exported
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model

Array = np.ndarray[Any, Any]


def _gather_elements(node: gs.Node, data: Array, indices: Array) -> Array:
    """onnx.reference reshapes wrongly where indices repeat along another axis (onnx 1.23)."""
    axis = int(node.attrs.get("axis", 0))
    inside = tuple(slice(0, d) if k != axis % data.ndim else slice(None) for k, d in enumerate(indices.shape))
    return np.take_along_axis(data[inside], indices % data.shape[axis], axis=axis)


DIRECT: dict[str, Callable[..., Array]] = {"GatherElements": _gather_elements}


class Known(Protocol):
    """What evaluation needs of a traced value."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Concrete sizes."""

    @property
    def data(self) -> Array | None:
        """The numbers, where they are known."""


class Evaluator:
    """Runs single nodes; exports repeat an operator with the same attributes thousands of times: one instance each."""

    def __init__(self, model: Model) -> None:
        self.opsets = {(d.domain or ""): int(d.version) for d in model.graph.import_domains or []}
        self.opsets.setdefault("", int(model.graph.opset))
        self._cache: dict[tuple[Any, ...], onnx.reference.ReferenceEvaluator] = {}

    def can(self, node: gs.Node) -> bool:
        """Standard operators only, and nothing random or with a graph inside."""
        return (
            not node.domain
            and not node.op.startswith("Random")
            and not any(isinstance(a, gs.Graph) for a in node.attrs.values())
        )

    def run(self, node: gs.Node, inputs: Sequence[Known | None]) -> list[Array]:
        """Outputs of a node all of whose inputs are known."""
        direct = DIRECT.get(node.op)
        if direct is not None:
            return [direct(node, *(v.data for v in inputs if v is not None and v.data is not None))]
        return self._reference(node, inputs)

    def _reference(self, node: gs.Node, inputs: Sequence[Known | None]) -> list[Array]:
        names = ["" if v is None else f"i{k}" for k, v in enumerate(inputs)]
        outputs = [f"o{k}" if t.name else "" for k, t in enumerate(node.outputs)]
        key = (node.op, tuple(names), tuple(outputs), _frozen(node.attrs))
        feeds = {n: _fed(v.data) for n, v in zip(names, inputs, strict=True) if v is not None}
        try:
            if key not in self._cache:
                proto = _proto(node, names, outputs)
                self._cache[key] = onnx.reference.ReferenceEvaluator(proto, opsets=self.opsets)
            with np.errstate(all="ignore"):  # log(0) of a relative position is minus infinity in every runtime
                found = self._cache[key].run(None, feeds)
            return [_kept(made) for made in found]
        except Exception as reason:  # noqa: BLE001  onnx.reference raises whatever NumPy raised
            raise UnsupportedGraph(
                f"{node.op} node {node.name!r} cannot be evaluated on "
                f"{[list(v.shape) for v in inputs if v is not None]}: {reason}"
            ) from None

    def shapes(
        self, node: gs.Node, inputs: Sequence[Known | None], around: Mapping[str, Known]
    ) -> list[tuple[int, ...]]:
        """Output shapes of an operator that no neuron meets, by onnx's shape inference; of an If whose condition is
        known, those of the branch that it chooses, which reads the values ``around`` it."""
        chosen = _chosen(node, inputs)
        if chosen is not None:
            return self._of_branch(node, chosen, around)
        names = ["" if v is None else f"i{k}" for k, v in enumerate(inputs)]
        outputs = [f"o{k}" for k, _ in enumerate(node.outputs)]
        types, data = {}, {}
        try:
            for name, value in zip(names, inputs, strict=True):
                if value is not None:
                    types[name] = _type(value)
                    if value.data is not None:
                        data[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value.data))
            schema = onnx.defs.get_schema(node.op, self.opsets.get(node.domain or "", 1), node.domain or "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, _proto(node, names, outputs), types, data, opset_imports=_imports(self.opsets)
            )
            return [_sizes(found[o].tensor_type) for o in outputs]
        except Exception as reason:  # noqa: BLE001  unknown operator, or a shape that depends on the weights
            raise UnsupportedGraph(
                f"{node.op} node {node.name!r} (domain {node.domain or 'ai.onnx'!r}): its output shape cannot be "
                f"inferred and it has no row in graphclone/anatomy/flows ({reason})"
            ) from None

    def _of_branch(self, node: gs.Node, body: gs.Graph, around: Mapping[str, Known]) -> list[tuple[int, ...]]:
        """Branches may differ (LongRoPE's tables for short and long texts), so that the If has no shape of its own."""
        read = [name for name in captured(node) if name in around]
        inputs = [onnx.ValueInfoProto(name=name, type=_type(around[name])) for name in read]
        try:
            inner = OnnxExporter.export_graph(body, do_type_check=False)
            held = {tensor.name: tuple(tensor.dims) for tensor in inner.initializer}
            if not all(output.name in held for output in inner.output):
                inner.input.extend(inputs)
                kinds = {"opset_imports": _imports(self.opsets)}
                whole = onnx.helper.make_model(inner, **kinds)  # noqa: TID251  onnx-graphsurgeon has no bodies alone
                inner = onnx.shape_inference.infer_shapes(whole, data_prop=True).graph
            return [held[o.name] if o.name in held else _sizes(o.type.tensor_type) for o in inner.output]
        except Exception as reason:  # noqa: BLE001  as above
            raise UnsupportedGraph(
                f"{node.op} node {node.name!r}: the output shapes of the branch {body.name!r} cannot be inferred "
                f"({reason})"
            ) from None


def _kept(made: Any) -> Array:
    """A sequence is an array of the arrays in it, which may differ in length."""
    if not isinstance(made, list):
        return np.asarray(made)
    held = np.empty(len(made), object)
    for place, each in enumerate(made):
        held[place] = np.asarray(each)
    return held


def _fed(data: Array | None) -> Any:
    sequence = data is not None and data.dtype == object and all(isinstance(each, np.ndarray) for each in data.flat)
    return list(data) if data is not None and sequence else data


def _chosen(node: gs.Node, inputs: Sequence[Known | None]) -> gs.Graph | None:
    """The branch that is taken, where that is known."""
    condition = inputs[0].data if node.op == "If" and inputs and inputs[0] is not None else None
    if condition is None or condition.size != 1:
        return None
    body: gs.Graph = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
    return body


def _type(value: Known) -> onnx.TypeProto:
    """Numbers that are not known are taken for floats."""
    element = onnx.TensorProto.FLOAT if value.data is None else onnx.helper.np_dtype_to_tensor_dtype(value.data.dtype)
    return onnx.helper.make_tensor_type_proto(element, value.shape)


def _sizes(inferred: onnx.TypeProto.Tensor) -> tuple[int, ...]:
    if not inferred.HasField("shape") or not all(d.HasField("dim_value") for d in inferred.shape.dim):
        raise ValueError("shape inference leaves it open")
    return tuple(d.dim_value for d in inferred.shape.dim)


def captured(node: gs.Node) -> list[str]:
    """Names that the bodies of an If, Loop or Scan read from the graph around them."""
    bodies = [a for a in node.attrs.values() if isinstance(a, gs.Graph)]
    inner = [n for body in bodies for n in body.nodes]
    made = {t.name for n in inner for t in n.outputs} | {t.name for body in bodies for t in body.inputs}
    read = [t.name for n in inner for t in n.inputs] + [t.name for body in bodies for t in body.outputs]
    return [*dict.fromkeys(n for n in read if n and n not in made), *(name for n in inner for name in captured(n))]


def _imports(opsets: dict[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]


def _proto(node: gs.Node, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    proto = onnx.helper.make_node(node.op, list(inputs), list(outputs), domain=node.domain or "")
    proto.attribute.extend(exported(node))
    return proto


def _frozen(attributes: dict[str, Any]) -> tuple[Any, ...]:
    def freeze(value: Any) -> Any:
        if isinstance(value, gs.Constant):
            return (str(value.values.dtype), value.values.shape, value.values.tobytes())
        return tuple(value) if isinstance(value, list) else value

    return tuple(sorted((name, freeze(value)) for name, value in attributes.items()))
