"""A case of the operator table: one node, its operands, and which of them are initializers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from graphclone.pytorch.operators import TABLE

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """``constant``: operands that are initializers. Of the others, floats have sizes unknown to the graph."""

    op: str
    since: int
    operands: tuple[Any, ...]
    domain: str = ""
    constant: tuple[int, ...] = ()
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.domain, self.op, self.since

    def __str__(self) -> str:
        shown = "-".join(f"{k}{v}" for k, v in self.attributes.items() if not isinstance(v, onnx.TensorProto))
        return f"{self.domain}{self.op}-{self.since}-{shown}".replace(" ", "")[:60]

    @property
    def opset(self) -> int:
        """ONNX Runtime begins at 7; operators older than that still have their old meaning there."""
        return max(self.since, 7) if not self.domain else 17

    def model(self, types: tuple[Any, ...] = ()) -> onnx.ModelProto:
        """The node alone in a graph; ``types`` of its outputs, where they are known."""
        names = [f"x{i}" if a is not None else "" for i, a in enumerate(self.operands)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = onnx.helper.make_node(self.op, names, outputs, "node", domain=self.domain, **self.attributes)
        present = [(i, np.asarray(a)) for i, a in enumerate(self.operands) if a is not None]
        inputs = [
            onnx.helper.make_tensor_value_info(
                f"x{i}",
                onnx.helper.np_dtype_to_tensor_dtype(a.dtype),
                [f"x{i}_{axis}" for axis in range(a.ndim)] if a.dtype.kind == "f" else a.shape,
            )
            for i, a in present
            if i not in self.constant
        ]
        declared = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t)), None)
            for n, t in zip(outputs, types, strict=False)
        ]
        declared = declared or [onnx.ValueInfoProto(name=n) for n in outputs]
        weights = [onnx.numpy_helper.from_array(a, f"x{i}") for i, a in present if i in self.constant]
        graph = onnx.helper.make_graph([node], "case", inputs, declared, weights)
        opsets = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": np.asarray(a) for i, a in enumerate(self.operands) if a is not None and i not in self.constant}


def versions(op: str, domain: str = "", since: int = 0, until: int = 99) -> list[int]:
    """The since_versions that the table has for an operator, between two opsets."""
    return sorted(k[2] for k in TABLE if k[:2] == (domain, op) and since <= k[2] <= until)


def cases(
    op: str,
    *operands: Any,
    domain: str = "",
    since: int = 0,
    until: int = 99,
    constant: tuple[int, ...] = (),
    outputs: int = 1,
    **attributes: Any,
) -> list[Case]:
    """The same case for each version of a row."""
    return [
        Case(op, version, operands, domain, constant, outputs, attributes)
        for version in versions(op, domain, since, until)
    ]


def floats(*shape: int, low: float = -2.0, high: float = 2.0, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(sum((i + 1) * 7**n for n, i in enumerate(shape)) + len(shape))
    return rng.uniform(low, high, shape).astype(dtype)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)
