"""Calls with weights of their own that are modules of torch.nn: one row each, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.recognition.rewriting import behind_casts, calls, rank
from graphclone.pytorch.recording import Recording
from graphclone.pytorch.source.narrow import narrowed
from graphclone.pytorch.source.placement import GATED, Path, Placement
from graphclone.pytorch.weights import ANONYMOUS, PRECISION, Weight

GATES = (F.silu, F.gelu, torch.sigmoid, torch.relu, F.relu)
NORMS = (F.layer_norm, F.rms_norm)
POSITIONS, TYPES = "position", ("type", "segment")


@dataclass(frozen=True)
class Leaf:
    """``build``: the text that makes the module; ``weights``: its parameters by attribute; ``reads``: its operands."""

    kind: str
    build: str
    weights: Mapping[str, fx.Node]
    reads: tuple[Any, ...]


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["example"].shape)


def _linear(node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Leaf:
    outer, inner = _shape(weight)
    text = f"nn.Linear({inner}, {outer}" + (")" if bias is not None else ", bias=False)")
    return Leaf("linear", text, {"weight": weight, "bias": bias}, (x,))


def _embedding(node: fx.Node, ids: Any, weight: Any) -> Leaf:
    rows, width = _shape(weight)
    return Leaf("embedding", f"nn.Embedding({rows}, {width})", {"weight": weight}, (ids,))


def _layer_norm(node: fx.Node, x: Any, sizes: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5) -> Leaf:
    text = f"nn.LayerNorm({sizes[0]}, eps={short(eps, node)}" + (")" if bias is not None else ", bias=False)")
    return Leaf("norm", text, {"weight": weight, "bias": bias}, (x,))


def _rms_norm(node: fx.Node, x: Any, sizes: Any, weight: Any = None, eps: Any = None) -> Leaf:
    return Leaf("norm", f"nn.RMSNorm({sizes[0]}, eps={short(eps, node)})", {"weight": weight}, (x,))


def _convolution(dimensions: int) -> Callable[..., Leaf]:
    def leaf(
        node: fx.Node,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Leaf:
        outer, inner, *kernel = _shape(weight)
        options = [("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)]
        said = [f"{n}={_sizes(v)}" for n, v, usual in options if _sizes(v) not in (usual, (usual,) * dimensions)]
        said += [f"groups={groups}"] if groups != 1 else []
        said += ["bias=False"] if bias is None else []
        text = ", ".join([str(inner * groups), str(outer), f"kernel_size={tuple(kernel)}", *said])
        return Leaf("convolution", f"nn.Conv{dimensions}d({text})", {"weight": weight, "bias": bias}, (x,))

    return leaf


def _sizes(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def short(number: float, node: fx.Node) -> str:
    """1e-06 for what float32 made of it, where nothing but rounding is lost."""
    rounded = float(f"{number:.7g}")
    same = torch.tensor(rounded) == torch.tensor(number) and node.meta["example"].dtype != torch.float64
    return repr(rounded if same else number)


ROWS: Mapping[Any, Callable[..., Leaf]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.conv1d: _convolution(1),
    F.conv2d: _convolution(2),
    F.conv3d: _convolution(3),
}


def leaves(recording: Recording) -> dict[fx.Node, Leaf]:
    """Every call that is a module; a weight that is also read otherwise stays a parameter that calls read."""
    widened = {weight.name for weight in recording.weights if weight.computed is not None}
    found: dict[fx.Node, Leaf] = {}
    for node in recording.graph.nodes:
        if node.op == "call_function" and node.target in ROWS:
            if node.target in NORMS and len(node.args[1]) != 1:
                continue
            weight: Any = node.kwargs.get("weight") if node.target in NORMS else node.args[1]
            if not _owned(recording, weight) or not all(isinstance(a, fx.Node) for a in node.args[:1]):
                continue
            leaf = ROWS[node.target](node, *node.args, **node.kwargs)
            given: Mapping[str, Any] = leaf.weights
            held = {name: n for name, n in given.items() if n is not None}
            if all(_owned(recording, n) and n.meta["example"].dim() for n in held.values()):
                narrow = any(str(n.target) in widened for n in held.values())
                build = narrowed(leaf.build) if narrow else leaf.build
                found[node] = Leaf(leaf.kind, build, held, leaf.reads)
    while shared := [n for n, leaf in found.items() if not all(_read_by(w, found) for w in leaf.weights.values())]:
        for node in shared:
            del found[node]
    return found


def _owned(recording: Recording, weight: Any) -> bool:
    return isinstance(weight, fx.Node) and weight.op == "get_attr" and str(weight.target) not in recording.tables


def _read_by(weight: fx.Node, found: Mapping[fx.Node, Leaf]) -> bool:
    """By modules alone."""
    return all(user in found for user in weight.users)


def name_of_leaf(node: fx.Node, leaf: Leaf, path: Path, placement: Placement, weight: Weight) -> str:
    """What a module is called inside its part: by its role there, else as the exporter called its weight."""
    role = placement.roles.get(weight.name)
    if leaf.kind == "linear" and role is not None:
        if role == GATED:
            return "gate" if _activated(node) else "up"
        return role
    if leaf.kind == "norm" and path:
        return f"{_normalised(node, placement)}norm" if len(path) > 1 else "norm"
    if not path and placement.streams:
        named = _outside(node, leaf, placement, weight)
        if named:
            return named
    return spoken(weight, leaf.kind) if placement.streams else whole_name(weight)


def _activated(node: fx.Node) -> bool:
    """By one call, or by several that read it more than once."""
    return any(calls(user, *GATES) for user in node.users) or sum(rank(user) is not None for user in node.users) > 1


def _normalised(node: fx.Node, placement: Placement) -> str:
    """q_ or k_ for the norm of queries or keys."""
    source: Any = node.args[0]
    for _ in range(8):
        if calls(source, F.linear):
            role = placement.roles.get(str(source.args[1].target), "")
            return f"{role}_" if role in ("q", "k") else ""
        if not isinstance(source, fx.Node) or not source.all_input_nodes:
            return ""
        source = source.all_input_nodes[0]
    return ""


def _outside(node: fx.Node, leaf: Leaf, placement: Placement, weight: Weight) -> str | None:
    """Embeddings, the norm before and after the blocks, the head."""
    if leaf.kind == "embedding":
        ids = behind_casts(leaf.reads[0])
        given = ids.op == "placeholder"
        name = str(ids.name) if given else spoken(weight, POSITIONS)
        if any(t in name for t in TYPES):
            return "type_embedding"
        return "position_embedding" if POSITIONS in name or not given else "embedding"
    if leaf.kind == "norm":
        return "norm" if _reads_blocks(node, placement) else "embedding_norm"
    if leaf.kind == "linear" and any(user.op == "output" for user in node.users) and _reads_blocks(node, placement):
        return "head"
    return "patch" if leaf.kind == "convolution" and "Conv2d(" in leaf.build else None


def _reads_blocks(node: fx.Node, placement: Placement) -> bool:
    source: Any = node
    for _ in range(12):
        if placement.paths.get(source):
            return True
        if not source.all_input_nodes:
            return False
        source = source.all_input_nodes[0]
    return False


def whole_name(weight: Weight) -> str:
    """In a module without blocks: all of the name, so that no two weights share it."""
    steps = weight.name.split(".")
    steps = steps[:-1] if len(steps) > 1 and steps[-1] in GENERIC else steps
    return attribute("_".join(steps))


def attribute(name: str) -> str:
    """A name that Python takes for an attribute."""
    word = re.sub(r"\W", "_", name)
    return word if word.isidentifier() else f"weight_{word}"


GENERIC = ("weight", "bias", "gain", "kernel", "gamma", "beta", "Parameter", "linear")


def spoken(weight: Weight, kind: str) -> str:
    """The last telling word of the exporter's name for a weight; its kind where the name tells nothing."""
    name = next((n for n, _ in weight.initializers if not ANONYMOUS.match(n)), "")
    name = re.sub(f"{PRECISION}$", "", name)
    words = [re.sub(r"\W", "_", w) for w in re.split(r"[./]+|::|:\d+$", name) if w and not w.isdigit()]
    while len(words) > 1 and words[-1] in GENERIC:
        words.pop()
    word = words[-1].strip("_").lower() if words else kind
    return word if word.isidentifier() and word not in GENERIC else kind
