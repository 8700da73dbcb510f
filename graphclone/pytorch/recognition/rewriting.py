"""Reading and changing a recorded graph: operands, numbers, chains, replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from graphclone.pytorch.extents import Extent, extent
from graphclone.pytorch.recorder import run_example
from graphclone.pytorch.recording import HOLDS


@dataclass(frozen=True)
class Rewriter:
    """A torch.fx graph being rewritten, and the tables it names."""

    graph: fx.Graph
    tables: Mapping[str, torch.Tensor]

    def insert(self, before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call in front of a node; ``target`` is a function, or a method by name."""
        kind = "call_method" if isinstance(target, str) else "call_function"
        with self.graph.inserting_before(before):
            node = self.graph.create_node(kind, target, args, kwargs)
        node.meta["example"] = run_example(node)
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Everyone reads the new node, which holds what the old one held."""
        old.replace_all_uses_with(new)
        new.meta[HOLDS] = new.meta.get(HOLDS, set()) | old.meta.get(HOLDS, set())

    def finish(self) -> None:
        """Drop what nobody reads; sizes are followed anew from here on."""
        self.graph.eliminate_dead_code()
        for node in self.graph.nodes:
            node.meta.pop("extents", None)

    def number(self, value: Any) -> float | None:
        """A literal number, or a table of one element."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, fx.Node) and value.op == "get_attr" and str(value.target) in self.tables:
            table = self.tables[str(value.target)]
            return float(table.item()) if table.numel() == 1 else None
        return None

    def is_weight(self, value: Any) -> bool:
        """A parameter, as the graph holds it."""
        return isinstance(value, fx.Node) and value.op == "get_attr" and str(value.target) not in self.tables


def calls(node: Any, *targets: Any) -> bool:
    """Whether a value is the result of one of these functions or methods."""
    return isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and node.target in targets


def pair(node: fx.Node, wanted: Callable[[Any], bool]) -> tuple[Any, Any] | None:
    """Of two operands, the one that is ``wanted`` and the other."""
    if len(node.args) != 2 or node.kwargs:
        return None
    a, b = node.args
    return (a, b) if wanted(a) else (b, a) if wanted(b) else None


def behind_casts(value: Any) -> Any:
    """The value before changes of its type."""
    while calls(value, "to"):
        value = value.args[0]
    return value


def rank(value: Any) -> int | None:
    """Number of axes, where it is known."""
    example = value.meta.get("example") if isinstance(value, fx.Node) else None
    return example.dim() if isinstance(example, torch.Tensor) else None


def dtype(value: fx.Node) -> torch.dtype | None:
    """Element type, where it is known."""
    example = value.meta.get("example")
    return example.dtype if isinstance(example, torch.Tensor) else None


def extents(value: fx.Node) -> list[Extent] | None:
    """Where each size comes from (extents.py), for a value of known rank."""
    axes = rank(value)
    return None if axes is None else [extent(value, axis) for axis in range(axes)]


def size_of(asked: Any) -> Extent:
    """A size given as an operand, in the form of ``extents``."""
    if calls(asked, "size"):
        return extent(asked.args[0], asked.args[1])
    return asked


def evaluate(node: Any, given: Mapping[fx.Node, torch.Tensor]) -> Any:
    """Compute a node in float64 from given values, casts left out. Raises KeyError where they do not suffice."""
    if not isinstance(node, fx.Node):
        return node
    known: dict[fx.Node, Any] = dict(given)

    def value(one: fx.Node) -> Any:
        if one not in known:
            if one.op not in ("call_function", "call_method"):
                raise KeyError(one.name)
            read: Any = map_arg((one.args, one.kwargs), value)
            args, kwargs = read
            if one.target == "to":
                known[one] = args[0]
            elif one.op == "call_method":
                known[one] = getattr(args[0], str(one.target))(*args[1:], **kwargs)
            else:
                known[one] = one.target(*args, **kwargs)  # type: ignore[operator]
        return known[one]

    return value(node)


def each(graph: fx.Graph, *targets: Any) -> Iterator[fx.Node]:
    """The calls of some functions or methods, as they stood at the start, that are still read."""
    for node in [n for n in graph.nodes if calls(n, *targets)]:
        if node.users:
            yield node
