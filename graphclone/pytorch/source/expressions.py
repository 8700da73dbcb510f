"""Writes one call of a recorded graph as the Python that a person would write for it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

ATOM, POWER, UNARY, PRODUCT, SUM, AND, OR, COMPARISON = 9, 8, 7, 6, 5, 4, 3, 2  # how tightly Python binds

INFIX: dict[Any, tuple[str, int]] = {
    torch.add: ("+", SUM),
    torch.sub: ("-", SUM),
    torch.mul: ("*", PRODUCT),
    torch.pow: ("**", POWER),
    operator.add: ("+", SUM),
    operator.sub: ("-", SUM),
    operator.mul: ("*", PRODUCT),
    operator.truediv: ("/", PRODUCT),
    operator.floordiv: ("//", PRODUCT),
    operator.mod: ("%", PRODUCT),
    operator.pow: ("**", POWER),
    operator.matmul: ("@", PRODUCT),
    torch.matmul: ("@", PRODUCT),
    operator.and_: ("&", AND),
    operator.or_: ("|", OR),
    **{f: (s, COMPARISON) for f, s in ((torch.lt, "<"), (torch.le, "<="), (torch.gt, ">"), (torch.ge, ">="))},
    **{f: (s, COMPARISON) for f, s in ((torch.eq, "=="), (torch.ne, "!="), (operator.eq, "=="), (operator.ne, "!="))},
    **{f: (s, COMPARISON) for f, s in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"))},
    operator.ge: (">=", COMPARISON),
}
ON_TRUTHS = {torch.logical_and: ("&", AND), torch.logical_or: ("|", OR)}
PREFIX: dict[Any, str] = {torch.neg: "-", operator.neg: "-", operator.pos: "+"}
SPREAD = ("reshape", "permute", "expand", "repeat", "view")  # methods that take sizes one by one
HOMES: tuple[tuple[str, Any], ...] = (
    ("F", F),
    ("torch", torch),
    ("torch.linalg", torch.linalg),
    ("torch.special", torch.special),
    ("math", math),
    ("operator", operator),
)


@dataclass(frozen=True)
class Expression:
    """Text, and how tightly its outermost operator binds."""

    text: str
    level: int = ATOM

    def at(self, level: int) -> str:
        """The text as an operand of an operator that binds at ``level``."""
        return self.text if self.level >= level else f"({self.text})"


@dataclass(frozen=True)
class InTraining:
    """An argument that is on while the module trains: the share that dropout drops, or whether it drops."""

    share: float | None = None

    def __str__(self) -> str:
        return "self.training" if self.share is None else f"{self.share} if self.training else 0.0"


Reference = Callable[[fx.Node], Expression]


class Unnamed(Exception):
    """A function that no public module of torch or Python holds: its source has to be brought along."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self.function = function


@cache
def name_of(function: Any) -> str:
    """How a function is called in the module's code. Raises Unnamed where it has no public home."""
    name = str(getattr(function, "__name__", ""))
    for home, module in HOMES:
        if getattr(module, name, None) is function:
            return f"{home}.{name}"
    if getattr(function, "__module__", "") == "builtins" and name in ("int", "float", "bool", "min", "max", "round"):
        return name
    for home, module in HOMES:  # under another name than its own
        for public in dir(module):
            if not public.startswith("_") and getattr(module, public, None) is function:
                return f"{home}.{public}"
    raise Unnamed(function)


def call(node: fx.Node, ref: Reference, names: Callable[[Any], str]) -> Expression:
    """A node that calls a function or a method, over references to its operands."""
    if node.op == "call_method":
        return _item(node, ref) if node.target == "__getitem__" else _method(node, ref)
    target: Any = node.target
    if target is getattr:
        return Expression(f"{ref(node.args[0]).at(ATOM)}.{node.args[1]}")  # type: ignore[arg-type]
    if target is operator.getitem:
        return _item(node, ref)
    if target is getattr or (not node.kwargs and len(node.args) == 1 and target in PREFIX):
        return Expression(PREFIX[target] + _operand(node.args[0], ref).at(UNARY), UNARY)
    infix = INFIX.get(target) or (ON_TRUTHS.get(target) if _all_truths(node) else None)
    if infix is not None and not node.kwargs and len(node.args) == 2 and _writable(node):
        sign, level = infix
        left, right = (_operand(a, ref) for a in node.args)
        strict = level + 1
        return Expression(
            f"{left.at(strict if level in (POWER, COMPARISON) else level)} {sign} {right.at(strict)}", level
        )
    return Expression(f"{names(target)}({_arguments(node.args, node.kwargs, ref)})")


def _writable(node: fx.Node) -> bool:
    """One operand has to be computed: between two literals Python's own operator would act."""
    return any(isinstance(a, fx.Node) for a in node.args)


def _all_truths(node: fx.Node) -> bool:
    examples = [a.meta.get("example") for a in node.args if isinstance(a, fx.Node)]
    return len(examples) == len(node.args) and all(
        isinstance(e, torch.Tensor) and e.dtype == torch.bool for e in examples
    )


def _operand(value: Any, ref: Reference) -> Expression:
    if isinstance(value, fx.Node):
        return ref(value)
    negative = isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0
    return Expression(literal(value, ref), UNARY if negative else ATOM)


def _method(node: fx.Node, ref: Reference) -> Expression:
    source: Any = node.args[0]
    name, rest = str(node.target), list(node.args[1:])
    if name in SPREAD and len(rest) == 1 and isinstance(rest[0], (list, tuple)):
        rest = list(rest[0])
    if name == "permute" and (swapped := _swap([int(r) for r in rest])) is not None:  # type: ignore[arg-type]
        name, rest = "transpose", list(swapped)
    return Expression(f"{ref(source).at(ATOM)}.{name}({_arguments(rest, node.kwargs, ref)})")


def _swap(order: list[int]) -> tuple[int, int] | None:
    """The two axes that change places, where no other does."""
    moved = [i for i, axis in enumerate(order) if axis != i]
    return (moved[0], moved[1]) if len(moved) == 2 else None


def _item(node: fx.Node, ref: Reference) -> Expression:
    source, index = node.args
    picks = list(index) if isinstance(index, tuple) else [index]
    whole = sum(1 for _ in _leading(picks))
    example = source.meta.get("example") if isinstance(source, fx.Node) else None
    ends = isinstance(example, torch.Tensor) and example.dim() == len(picks)
    texts = [_pick(p, ref) for p in picks]
    if ends and whole > 1 and whole < len(picks):
        texts = ["...", *texts[whole:]]
    return Expression(f"{ref(source).at(ATOM)}[{', '.join(texts)}]")  # type: ignore[arg-type]


def _leading(picks: list[Any]) -> Any:
    for pick in picks:
        if pick != slice(None):
            return
        yield pick


def _pick(pick: Any, ref: Reference) -> str:
    if not isinstance(pick, slice):
        return literal(pick, ref)
    start, stop = (("" if n is None else literal(n, ref)) for n in (pick.start, pick.stop))
    return f"{start}:{stop}" + ("" if pick.step is None else f":{literal(pick.step, ref)}")


def _arguments(args: Any, kwargs: dict[str, Any], ref: Reference) -> str:
    texts = [literal(a, ref) for a in args]
    return ", ".join([*texts, *(f"{name}={literal(a, ref)}" for name, a in kwargs.items())])


def literal(value: Any, ref: Reference) -> str:
    """An argument: a reference, or a constant as Python writes it."""
    if isinstance(value, fx.Node):
        return ref(value).text
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        return f"({', '.join(literal(v, ref) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(literal(v, ref) for v in value)}]"
    if isinstance(value, slice):
        return f"slice({literal(value.start, ref)}, {literal(value.stop, ref)}, {literal(value.step, ref)})"
    if isinstance(value, str):
        return '"' + value.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    return str(value)
