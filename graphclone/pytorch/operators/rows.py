"""The shape of a row: what is written beside each operator, and how a node of the graph finds its row.

A row is keyed (domain, operator, since_version): since_version is the opset in which the operator got its present
meaning (onnx.defs), so a meaning that no row was written for is refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx.defs
import onnx_graphsurgeon as gs
import torch
import torch.fx

from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.pytorch.recorder import Recorder
from graphclone.pytorch.values import UNKNOWN, Scalar, Sizes, Symbol, Value

Key = tuple[str, str, int]
Function = Callable[..., Any]
CONTRIB = "com.microsoft"

TYPES: Mapping[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}  # onnx.TensorProto.DataType, those that torch computes with
NUMBERS: Mapping[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float32}  # of sizes


@dataclass(frozen=True)
class Row:
    """``function(call, *inputs)`` -> the node's outputs (one value, or a tuple).

    numbers: inputs handed over as lists of numbers (shapes, axes, scales) instead of tensors.
    lengths: how many numbers such an input holds by the operator's meaning, given the call: it may not show otherwise.
    scalars: single-element constants are handed over as Python numbers.
    gains, biases: inputs that multiply or are added to normalised or projected values; they are weights by role.
    fixed: running statistics, which training does not touch.
    """

    function: Function
    numbers: tuple[int, ...] = ()
    lengths: Mapping[int, Callable[[Call], int | None]] = field(default_factory=dict)
    scalars: bool = False
    gains: tuple[int, ...] = ()
    biases: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()


TABLE: dict[Key, Row] = {}
ON_SIZES: dict[Key, Function] = {}  # the same operators on Sizes; a function may answer NotImplemented


@dataclass(frozen=True)
class Call:
    """One node being built."""

    node: gs.Node
    recorder: Recorder
    version: int
    inputs: tuple[Any, ...] = ()  # Value or None
    read: frozenset[str] = frozenset()  # values that a node or the graph's user reads

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def refuse(self, why: str) -> UnsupportedGraph:
        shapes = ", ".join(f"{t.name} {t.shape}" for t in self.node.inputs)
        return UnsupportedGraph(f"{self.node.op} (node {self.node.name!r}, inputs {shapes}): {why}")

    def reads(self, index: int) -> bool:
        """Whether anything reads an output: exporters name outputs that nothing does."""
        return index < len(self.node.outputs) and self.node.outputs[index].name in self.read

    def refuse_outputs(self, names: Mapping[int, str]) -> None:
        """Refuse the node where outputs are read that its row does not compute."""
        asked = [name for index, name in names.items() if self.reads(index)]
        if asked:
            raise self.refuse(f"the output {', '.join(asked)}, which is read (export without it)")

    def torch_type(self, onnx_type: int) -> torch.dtype:
        if onnx_type not in TYPES:
            raise self.refuse(f"element type {onnx_type} is not one PyTorch computes with")
        return TYPES[onnx_type]

    def rank(self, value: Value) -> int:
        return len(self.example(value).shape)

    def dtype(self, value: Value) -> torch.dtype:
        held = value if isinstance(value, Sizes) else self.example(value)
        found: torch.dtype = NUMBERS[type(held)] if isinstance(held, (bool, int, float)) else held.dtype
        return found

    def example(self, value: Value) -> Any:
        """A meta tensor (or the tensor itself): read rank and dtype from it, not sizes."""
        held = value.example if isinstance(value, Symbol) else value
        if held is UNKNOWN:
            raise self.refuse("the rank of an input is unknown: run onnx.shape_inference.infer_shapes on the model")
        return held

    def size(self, value: Value, axis: int) -> Scalar:
        if isinstance(value, Symbol):
            axis = axis + self.rank(value) if axis < 0 else axis
            return self.recorder.size(value, axis)
        return self.recorder.tensor(value).shape[axis]

    def sizes(self, value: Value) -> list[Scalar]:
        return [self.size(value, axis) for axis in range(self.rank(value))]

    def ints(self, numbers: list[Scalar] | None, what: str) -> list[int] | None:
        """Numbers that must be known when the module is built, such as axes."""
        if numbers is not None and any(isinstance(n, Symbol) for n in numbers):
            raise self.refuse(f"{what} must not depend on the graph's inputs")
        return None if numbers is None else [int(n) for n in numbers]

    def axes(self, numbers: list[Scalar] | None, attribute: str = "axes") -> list[int] | None:
        """Axes from the attribute of older opsets or the input of newer ones; None where neither is given."""
        held = self.attr(attribute)
        if held is not None:
            return [int(a) for a in held]
        return self.ints(numbers, attribute)


def row(
    op: str,
    *since: int,
    domain: str = "",
    **kinds: Any,
) -> Callable[[Function], Function]:
    """Register a row for each of the operator's since_versions; a second row for one of them is a mistake."""

    def register(function: Function) -> Function:
        for version in since:
            key = (domain, op, version)
            if key in TABLE:
                raise ValueError(f"two rows for {key}: {TABLE[key].function.__qualname__}, {function.__qualname__}")
            TABLE[key] = Row(function, **kinds)
        return function

    return register


def on_sizes(op: str, *since: int) -> Callable[[Function], Function]:
    """Register how an operator acts on Sizes."""

    def register(function: Function) -> Function:
        for version in since:
            if ("", op, version) in ON_SIZES:
                raise ValueError(f"two ways for {op} {version} to act on sizes")
            ON_SIZES["", op, version] = function
        return function

    return register


@dataclass(frozen=True)
class Lookup:
    """Finds the row of each node under the model's opsets."""

    opsets: Mapping[str, int]
    _found: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> Lookup:
        """Under the opsets that the model imports."""
        domains = {d.domain: d.version for d in model.graph.import_domains or ()}
        return cls({**domains, "": model.graph.opset})

    def key(self, node: gs.Node) -> Key:
        domain = node.domain or ""
        if (domain, node.op) not in self._found:
            self._found[domain, node.op] = self._since(domain, node.op)
        return domain, node.op, self._found[domain, node.op]

    def row(self, node: gs.Node) -> Row | None:
        return TABLE.get(self.key(node))

    def _since(self, domain: str, op: str) -> int:
        opset = self.opsets.get(domain, 1)
        try:
            return int(onnx.defs.get_schema(op, opset, domain).since_version)
        except onnx.defs.SchemaError:
            return 1  # contributed operators: ONNX Runtime gives them all version 1
