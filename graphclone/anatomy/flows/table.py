"""The table of rows and what its rows share: reading an attribute or a known operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.anatomy.ids import Factors
from graphclone.anatomy.trace import Flow, Trace, Value, describe
from graphclone.errors import UnsupportedGraph

TABLE: dict[tuple[str, str], Flow] = {}


def row(*operators: str, domain: str = "") -> Callable[[Flow], Flow]:
    """Enter a flow into the table; a second row for an operator is a mistake."""

    def enter(flow: Flow) -> Flow:
        for operator in operators:
            if (domain, operator) in TABLE:
                raise ValueError(f"two rows for {domain or 'ai.onnx'} {operator}")
            TABLE[domain, operator] = flow
        return flow

    return enter


def known(node: gs.Node, inputs: list[Value | None], index: int) -> np.ndarray[Any, Any] | None:
    """The numbers of an operand that must not depend on the weights; None where it is left out."""
    if index >= len(inputs) or (value := inputs[index]) is None:
        return None
    if value.data is None:
        raise UnsupportedGraph(f"{describe(node)}: operand {index} {list(value.shape)} depends on the weights")
    return value.data


def ints(node: gs.Node, inputs: list[Value | None], name: str, index: int) -> list[int] | None:
    """An integer list that older versions give as an attribute and newer ones as an input."""
    if name in node.attrs:
        held = node.attrs[name]
        return [int(i) for i in held] if isinstance(held, list | tuple) else [int(held)]
    data = known(node, inputs, index)
    return None if data is None else [int(i) for i in np.atleast_1d(data)]


def first(node: gs.Node, inputs: list[Value | None]) -> Value:
    """The main operand, which no operator may leave out."""
    if not inputs or inputs[0] is None:
        raise UnsupportedGraph(f"{describe(node)}: without its first input")
    return inputs[0]


def drop_axis(trace: Trace, node: gs.Node, factors: Factors) -> None:
    """An axis that disappears takes its neuron with it, which must therefore stay."""
    trace.pin(factors, f"picked out by {describe(node)}")
