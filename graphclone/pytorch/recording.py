"""Records a model as a flat torch.fx graph, operator by operator, by the rows of the operator table."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs
import torch
from torch import fx, nn

from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model, to_proto
from graphclone.pytorch.operators import ON_SIZES, Call, Lookup, Row
from graphclone.pytorch.operators.rows import TYPES
from graphclone.pytorch.recorder import Recorder
from graphclone.pytorch.usage import is_quantised
from graphclone.pytorch.values import UNKNOWN, Sizes, Symbol, Value
from graphclone.pytorch.weights import WeightMap, to_tensor

FEW = 64  # elements up to which an integer constant may take part in arithmetic on sizes
EXAMPLE_BATCH, EXAMPLE_LENGTH, EXAMPLE_PIXELS = 2, 7, 224  # only ranks are read from examples
TAKEN = frozenset({"self", "torch", "nn", "F", "math", "operator", "block", "index"})  # in the program that is written
HOLDS = "tensors"  # meta of a torch.fx node: the names of the graph's values that it computes


@dataclass(frozen=True)
class Recording:
    """A flat torch.fx graph whose ``get_attr`` nodes name weights (of ``weights``) or ``tables``.

    ``inputs``: graph input -> argument name. The output node holds a dict of the graph's outputs by name.
    """

    graph: fx.Graph
    weights: WeightMap
    tables: Mapping[str, torch.Tensor]
    inputs: Mapping[str, str]


def record(model: Model, weights: WeightMap) -> Recording:
    """Record every node of the model. Nothing is read from the weights but their shapes.

    Raises UnsupportedGraph, before anything is recorded, for an operator that no row of the table covers.
    """
    lookup = Lookup.of(model)
    refuse_unknown_operators(model, lookup)
    return _Builder(model, lookup, weights).build()


def refuse_unknown_operators(model: Model, lookup: Lookup) -> None:
    """Every node must have a row, under the meaning its opset gives it."""
    missing = [(lookup.key(node), node) for node in model.graph.nodes if lookup.row(node) is None]
    if not missing:
        return
    (domain, op, since), node = missing[0]
    others = sorted({key[1] for key, _ in missing[1:]} - {op})
    more = f"; also without a row: {', '.join(others)}" if others else ""
    raise UnsupportedGraph(
        f"operator {domain or 'ai.onnx'}.{op} version {since} (node {node.name!r}, opset "
        f"{lookup.opsets.get(domain, 1)}) is not in the PyTorch table{more}. To add it, write a function under "
        f"@row({op!r}, {since}{f', domain={domain!r}' if domain else ''}) in graphclone/pytorch/operators and a case "
        f"in tests/pytorch/cases"
    )


@dataclass
class _Builder:
    model: Model
    lookup: Lookup
    weights: WeightMap

    def build(self) -> Recording:
        root = nn.Module()
        self.recorder = Recorder(root)
        self.values: dict[str, Value] = {}
        self.parameter_of = self.weights.parameter_of()
        inputs = self._add_inputs()
        for node in self.model.graph.nodes:
            self._add_node(node)
        outputs = {t.name: self.recorder.tensor(self._value(t)) for t in self.model.graph.outputs}
        self.recorder.create_proxy("output", "output", (outputs,), {})
        for name, value in self.values.items():
            if isinstance(value, Symbol):
                value.node.meta.setdefault(HOLDS, set()).add(name)
        return Recording(self.recorder.graph, self.weights, dict(root.named_buffers()), inputs)

    def _add_inputs(self) -> dict[str, str]:
        """Placeholders named after the inputs, as Python allows; graph input -> argument."""
        names: dict[str, str] = {}
        declared: dict[str, tuple[fx.Node, int]] = {}
        for tensor in self.model.graph.inputs:
            argument = re.sub(r"\W", "_", tensor.name)
            argument = argument if argument.isidentifier() else f"input_{argument}"
            while argument in names.values() or argument in TAKEN or keyword.iskeyword(argument):
                argument += "_"
            names[tensor.name] = argument
            fixed: list[Any] = [d if isinstance(d, int) and d >= 0 else None for d in tensor.shape or ()]
            symbol = self.recorder.input(argument, _input_example(tensor), fixed)
            for axis, size in enumerate(tensor.shape):
                if isinstance(size, str) and size:  # equal names are equal sizes
                    first = declared.setdefault(size, (symbol.node, axis))
                    fixed[axis] = None if first[0] is symbol.node else first
            self.values[tensor.name] = symbol
        return names

    @cached_property
    def _read(self) -> frozenset[str]:
        """Values that a node or the graph's user reads."""
        readers = [self.model.graph.outputs, *(node.inputs for node in self.model.graph.nodes)]
        return frozenset(t.name for tensors in readers for t in tensors if t.name)

    def _value(self, tensor: gs.Tensor) -> Value:
        if tensor.name in self.values:
            return self.values[tensor.name]
        if not isinstance(tensor, gs.Constant):
            raise UnsupportedGraph(f"value {tensor.name} is used before it is computed: sort the graph topologically")
        value: Value
        if tensor.name in self.parameter_of:
            weight, turned = self.parameter_of[tensor.name]
            first = weight.initializers[0][0]
            if first not in self.values:
                example = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                self.values[first] = self.recorder.attribute(weight.name, example)
            held: Any = self.values[first]
            held = held.squeeze(0) if weight.shape and not tensor.values.shape else held
            value = held.t() if turned else held
        else:
            value = to_tensor(tensor.values, tensor.name)
            if is_quantised(tensor.values) and value.numel() > FEW:  # stays bytes: not folded into a table of floats
                value = self.recorder.constant(value)
        self.values[tensor.name] = value
        return value

    def _add_node(self, node: gs.Node) -> None:
        key = self.lookup.key(node)
        row = self.lookup.row(node)
        assert row is not None
        inputs = [None if t.is_empty() else self._value(t) for t in node.inputs]
        call = Call(node, self.recorder, key[2], tuple(inputs), self._read)
        try:
            results = self._on_sizes(call, ON_SIZES.get(key), inputs)
            if results is NotImplemented:
                results = row.function(call, *self._operands(row, call))
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as reason:
            raise call.refuse(f"{type(reason).__name__}: {reason}".splitlines()[0]) from reason
        results = results if isinstance(results, tuple) else (results,)
        for tensor, value in zip(node.outputs, results, strict=False):
            if tensor.name and value is not None:
                self.values[tensor.name] = self._with_example(value, tensor.name)

    def _on_sizes(self, call: Call, function: Any, inputs: list[Value | None]) -> Any:
        if function is None or not any(isinstance(v, Sizes) for v in inputs):
            return NotImplemented
        converted = [Sizes.of_tensor(v) if isinstance(v, torch.Tensor) and v.numel() <= FEW else v for v in inputs]
        if not all(v is None or isinstance(v, Sizes) for v in converted):
            return NotImplemented
        result = function(call, *converted)
        return result.tensor() if isinstance(result, Sizes) and result.known else result

    def _operands(self, row: Row, call: Call) -> list[Any]:
        operands: list[Any] = []
        for i, value in enumerate(call.inputs):
            if value is not None and i in row.numbers:
                length = row.lengths[i](call) if i in row.lengths else None
                operands.append(self._numbers(value, call.node.inputs[i].name, length))
            elif value is not None:
                operands.append(self.recorder.tensor(value) if not row.scalars else value)
            else:
                operands.append(None)
        if any(isinstance(n, Symbol) for o in operands if isinstance(o, list) for n in o):
            operands = [self.recorder.constant(o) if isinstance(o, torch.Tensor) else o for o in operands]
        return self._scalars(operands) if row.scalars else operands

    def _numbers(self, value: Value, name: str, length: int | None) -> list[Any]:
        if isinstance(value, Symbol) and value.example is UNKNOWN:
            value = self._with_example(value, name)
        return self.recorder.numbers(value, length)

    def _scalars(self, operands: list[Any]) -> list[Any]:
        """A single number beside a run-time tensor of at least its rank becomes a literal."""
        ranks = [o.example.dim() for o in operands if isinstance(o, Symbol) and o.example is not UNKNOWN]
        highest = max(ranks, default=-1 if not any(isinstance(o, Symbol) for o in operands) else 0)
        return [self._scalar(o, highest) for o in operands]

    def _scalar(self, operand: Any, highest: int) -> Any:
        if isinstance(operand, torch.Tensor) and operand.numel() == 1 and operand.dim() <= highest:
            return operand.item()
        if isinstance(operand, Sizes) and operand.elements.size == 1 and operand.elements.ndim <= highest:
            return operand.elements.item()
        return self.recorder.tensor(operand)

    def _with_example(self, value: Value, name: str) -> Value:
        """Where the small run of examples gave nothing, shape inference still gives rank and type."""
        if isinstance(value, Symbol) and value.example is UNKNOWN and name in self._inferred:
            value.node.meta["example"] = self._inferred[name]
        return value

    @cached_property
    def _inferred(self) -> Mapping[str, torch.Tensor]:
        proto, _ = to_proto(self.model)
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        return {
            info.name: torch.empty(
                [d.dim_value or EXAMPLE_LENGTH for d in info.type.tensor_type.shape.dim],
                dtype=TYPES[info.type.tensor_type.elem_type],
                device="meta",
            )
            for info in (*inferred.graph.value_info, *inferred.graph.output)
            if info.type.tensor_type.HasField("shape") and info.type.tensor_type.elem_type in TYPES
        }


def _input_example(tensor: gs.Variable) -> torch.Tensor:
    known = isinstance(tensor.dtype, int) or tensor.dtype is None  # an ONNX code, where NumPy has no such type
    code = tensor.dtype or 0 if known else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    if code not in TYPES or tensor.shape is None:
        raise UnsupportedGraph(
            f"input {tensor.name}: type {tensor.dtype}, shape {tensor.shape}: not a tensor PyTorch takes"
        )
    image = len(tensor.shape) >= 4 and TYPES[code].is_floating_point
    sizes = [
        d if isinstance(d, int) and d >= 0 else _example_size(str(d), i, image) for i, d in enumerate(tensor.shape)
    ]
    return torch.empty(sizes, dtype=TYPES[code], device="meta")


def _example_size(name: str, axis: int, image: bool) -> int:
    if "past" in name and "+" not in name:
        return 0
    if axis == 0:
        return EXAMPLE_BATCH
    return EXAMPLE_PIXELS if image else EXAMPLE_LENGTH
