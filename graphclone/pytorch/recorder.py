"""Recording: the rows of the operator table are ordinary torch code; given symbols they record, given tensors they run.

What an ONNX value can be while a module is built:

- ``Symbol``: computed at run time, a node of the torch.fx graph;
- ``torch.Tensor``: known already (integer tables, masks, frequencies), so that operators on it are folded by running;
- ``Sizes``: the numbers of a shape or of arithmetic on shapes, each an int or a scalar Symbol. Shape chains thus become
  ``x.size(1) * 4`` in the module's code, not small tensors, and stay dynamic.

Each node carries an *example*, its result on the meta device for one small set of input sizes. Only ranks and dtypes
are read from it, never sizes.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer

from graphclone.pytorch.arithmetic import product
from graphclone.pytorch.extents import RULES, extent, same
from graphclone.pytorch.values import UNKNOWN, Scalar, Sizes, Symbol, Value

RANDOM: frozenset[Any] = frozenset({torch.nn.functional.dropout, torch.rand, torch.randn})


class Recorder(GraphAppendingTracer):
    """Appends to a torch.fx graph, computing examples and recording equal calls once."""

    def __init__(self, root: torch.nn.Module) -> None:
        super().__init__(fx.Graph())
        self.root = root
        self.device_of: Symbol | None = None
        self._calls: dict[Hashable, Symbol] = {}
        self._constants: dict[Hashable, Symbol] = {}

    def proxy(self, node: fx.Node) -> Symbol:
        """What torch.fx hands to the code being recorded."""
        return Symbol(node, self)

    def create_arg(self, a: Any) -> Any:
        """Tensors known at build time become buffers."""
        if isinstance(a, torch.Tensor):
            return self.constant(a).node
        if isinstance(a, np.generic):
            return a.item()
        if isinstance(a, fx.Node):
            return a
        return super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Symbol:
        """Record a node, or give back the one that computes the same already."""
        args, kwargs = self.create_arg(args), self.create_arg(_spoken(target, kwargs))
        pure = kind in ("call_function", "call_method") and target not in RANDOM
        key = (kind, target, _frozen(args), _frozen(kwargs)) if pure else None
        if key is not None and key in self._calls:
            return self._calls[key]
        symbol = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        assert isinstance(symbol, Symbol)
        symbol.node.meta["example"] = run_example(symbol.node)
        if key is not None:
            self._calls[key] = symbol
        return symbol

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Record a call of a function that torch cannot intercept (factories, arithmetic on numbers), or run it."""
        if any(isinstance(a, fx.Proxy) for a in _flat([*args, *kwargs.values()])):
            return self.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    def input(self, name: str, example: torch.Tensor, fixed: Sequence[Any]) -> Symbol:
        """An argument of the module's forward; ``fixed`` holds the sizes that the graph declares (extents.py)."""
        symbol = super().create_proxy("placeholder", name, (), {})
        assert isinstance(symbol, Symbol)
        symbol.node.meta |= {"example": example, "fixed": fixed}
        if self.device_of is None:
            self.device_of = symbol
        return symbol

    def attribute(self, path: str, tensor: torch.Tensor) -> Symbol:
        """The parameter or buffer at ``path`` of the root."""
        symbol = super().create_proxy("get_attr", path, (), {})
        assert isinstance(symbol, Symbol)
        symbol.node.meta["example"] = tensor.detach().to("meta")
        return symbol

    def constant(self, tensor: torch.Tensor) -> Symbol:
        """A tensor known at build time becomes a buffer; equal ones become one."""
        held = tensor.detach().contiguous()
        flat = held.as_strided((held.numel(),), (1,))  # of one element the stride may be any
        digest = hashlib.sha256(flat.view(torch.uint8).numpy().data).digest() if held.numel() else b""
        key = (digest, held.dtype, tuple(held.shape))
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self.root.register_buffer(name, held, persistent=False)
            self._constants[key] = self.attribute(name, held)
        return self._constants[key]

    @property
    def device(self) -> Any:
        """Where new tensors go: the device of the first graph input."""
        return torch.device("cpu") if self.device_of is None else self.device_of.device

    def tensor(self, value: Value) -> Any:
        """Sizes as an integer tensor; tensors and symbols as they are."""
        if not isinstance(value, Sizes):
            return value
        if value.known:
            return value.tensor()
        return self.call(torch.tensor, _nested(value.elements), dtype=value.dtype, device=self.device)

    def size(self, value: Symbol, axis: int) -> Scalar:
        """One size of a run-time tensor, asked of the value furthest back that has it."""
        found = extent(value.node, axis)
        if isinstance(found, int):
            return found
        if isinstance(found, fx.Node):
            return self.proxy(found)
        size = self.proxy(found[0]).size(found[1])
        size.node.meta["nonnegative"] = True
        if size.node.meta["example"] is UNKNOWN:
            size.node.meta["example"] = 1
        return size

    def numbers(self, value: Value, length: int | None = None) -> list[Scalar]:
        """The elements of a rank 0 or rank 1 value as numbers on the host; a run-time tensor is read with tolist.

        Raises ValueError where it is not known how many there are, by the value's shape or by ``length``.
        """
        if isinstance(value, Sizes):
            return list(value.elements.reshape(-1))
        if isinstance(value, torch.Tensor):
            return list(value.reshape(-1).tolist())
        rank = 1 if value.example is UNKNOWN else value.example.dim()
        counted = product(self, [self.size(value, axis) for axis in range(rank)])
        count = counted if isinstance(counted, int) else length
        if count is None:
            raise ValueError("how many numbers an operand holds depends on the graph's inputs")
        listed = value.reshape(-1).tolist()
        listed.node.meta["example"] = [1] * count
        return [listed[i] for i in range(count)]


@cache
def _defaults(function: Any) -> dict[str, Any]:
    try:
        return {p.name: p.default for p in inspect.signature(function).parameters.values()}
    except (TypeError, ValueError):  # built in: no signature, but then torch hands over only what was given
        return {}


def _spoken(target: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without arguments that repeat the function's defaults, so that the module's code reads as one would write it."""
    defaults = _defaults(target) if callable(target) and kwargs else {}
    return {k: v for k, v in kwargs.items() if k not in defaults or not _equal(v, defaults[k])}


def _equal(value: Any, default: Any) -> bool:
    plain = (int, float, bool, str)
    return value is default or (type(value) is type(default) and isinstance(value, plain) and value == default)


def run_example(node: fx.Node) -> Any:
    """The node's result on meta tensors; UNKNOWN where an operand is unknown or the sizes happen not to fit."""
    operands: list[Any] = []
    map_arg((node.args, node.kwargs), lambda n: operands.append(n.meta.get("example", UNKNOWN)))
    if any(o is UNKNOWN for o in operands):
        return UNKNOWN
    for small in (False, True):  # sizes that do not fit together: with sizes of 1 ranks and dtypes still come out
        result = _attempt(node, small)
        if result is not UNKNOWN:
            return result
    return operands[0] if RULES.get(node.target) is same else UNKNOWN


def _sized(example: Any, small: bool) -> Any:
    shrinks = small and isinstance(example, torch.Tensor)
    return torch.empty([1] * example.dim(), dtype=example.dtype, device="meta") if shrinks else example


def _attempt(node: fx.Node, small: bool) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: _sized(n.meta["example"], small))
    try:
        with torch.no_grad():
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError, ZeroDivisionError):
        return UNKNOWN  # a true mistake shows at run time; sizes of an example prove nothing


def _frozen(a: Any) -> Hashable:
    """A hashable key that tells 1 from 1.0 and True."""
    if isinstance(a, (list, tuple)):
        return (type(a), *map(_frozen, a))
    if isinstance(a, dict):
        return tuple((k, _frozen(v)) for k, v in a.items())
    if isinstance(a, slice):
        return ("slice", _frozen(a.start), _frozen(a.stop), _frozen(a.step))
    if isinstance(a, float) and math.isnan(a):
        return (float, "nan")
    return (type(a), a, math.copysign(1.0, a) if isinstance(a, float) else None)


def _flat(a: Any) -> list[Any]:
    if isinstance(a, (list, tuple)):
        return [leaf for element in a for leaf in _flat(element)]
    return [a]


def _nested(elements: np.ndarray[Any, np.dtype[Any]]) -> Any:
    return elements.item() if elements.ndim == 0 else elements.tolist()
