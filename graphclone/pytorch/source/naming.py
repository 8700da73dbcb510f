"""Names the values in the module's code, and tells when a name may be used again."""

from __future__ import annotations

import keyword
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.recognition.rewriting import calls, rank
from graphclone.pytorch.recording import TAKEN
from graphclone.pytorch.source.parts import Part

CALLED: dict[Any, str] = {
    torch.cos: "cos",
    torch.sin: "sin",
    torch.arange: "positions",
    torch.softmax: "probabilities",
    F.scaled_dot_product_attention: "attended",
    torch.split: "pieces",
    torch.chunk: "pieces",
}
KEEPS_NAME = ("to", "reshape", "permute", "transpose", "contiguous", "unsqueeze", "expand", "squeeze", "select")
AXES: dict[tuple[bool, int], tuple[str, ...]] = {  # of a graph input: (float, rank)
    (False, 2): ("batch", "length"),
    (False, 1): ("batch",),
    (True, 4): ("batch", "channels", "height", "width"),
    (True, 3): ("batch", "length", "channels"),
}


def wanted_name(node: fx.Node, part: Part, names: dict[fx.Node, str]) -> str:
    """The name that a value would get if no other had it."""
    if node.op == "placeholder":
        return re.sub(r"_?\d+(?=_|$)", "", str(node.target)) or "given" if part.path else str(node.target)
    if part.path and node in part.inputs:
        return _given(node)
    if node in part.leaves:
        name, leaf = part.leaves[node]
        return identifier(name) if leaf.kind == "linear" and name not in ("head", "o", "down") else "x"
    if calls(node, "size"):
        return _axis_name(node)
    if calls(node, getattr):
        return "device"
    if calls(node, *CALLED):
        return CALLED[node.target]
    example = node.meta.get("example")
    if _masks(node) or (isinstance(example, torch.Tensor) and example.dtype == torch.bool):
        return "mask"
    if node.op in ("call_function", "call_method") and not _is_number(example):
        first = next((n for n in node.all_input_nodes if n.op != "get_attr" and rank(n) is not None), None)
        if first is not None:
            return names.get(first) or wanted_name(first, part, names)
    return "size" if _is_number(example) else "x"


def _given(node: fx.Node) -> str:
    """An argument of a part: cos, sin, mask, or simply x."""
    source: Any = node
    while calls(source, *KEEPS_NAME):
        source = source.args[0]
    if calls(source, *CALLED):
        return CALLED[source.target]
    if _masks(node):
        return "mask"
    example = node.meta.get("example")
    if isinstance(example, torch.Tensor) and not example.is_floating_point():
        return "mask" if example.dtype == torch.bool else "positions"
    return "x" if isinstance(example, torch.Tensor) else "size"


def _masks(node: fx.Node) -> bool:
    attended = (user for user in node.users if calls(user, F.scaled_dot_product_attention))
    return any(user.kwargs.get("attn_mask") is node for user in attended)


def _is_number(example: Any) -> bool:
    return isinstance(example, (int, float, bool)) or example is None


def _axis_name(node: fx.Node) -> str:
    source, axis = node.args[0], node.args[1]
    example = source.meta.get("example") if isinstance(source, fx.Node) and source.op == "placeholder" else None
    if not isinstance(example, torch.Tensor) or not isinstance(axis, int):
        return "size"
    axes = AXES.get((example.is_floating_point(), example.dim()), ())
    return axes[axis] if axis < len(axes) else "size"


def identifier(name: str) -> str:
    """A name that Python takes."""
    name = re.sub(r"\W", "_", name)
    return f"{name}_" if keyword.iskeyword(name) or not name.isidentifier() else name


class Names:
    """Gives names to values of one forward; a name is free again when its value is read no more."""

    def __init__(self) -> None:
        self.given: dict[fx.Node, str] = {}
        self._until: dict[str, int] = {}  # name -> last statement that reads its value

    def give(self, node: fx.Node, wanted: str, statement: int, last_read: int) -> str:
        """A name for a value made in ``statement`` and read until ``last_read``."""
        name, count = wanted, 0
        while name in TAKEN or keyword.iskeyword(name) or self._until.get(name, -1) > statement:
            count += 1
            name = f"{wanted}_{count}"
        self._until[name] = max(last_read, statement)
        self.given[node] = name
        return name
