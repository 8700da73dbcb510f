"""Norms written over several nodes become rms_norm or layer_norm.

The mean of squares over the last axis is the heart of both; from it the pattern is followed back to the value that is
normalised and forward to the gain and bias. What was followed is then computed in float64 on seeded numbers of three
magnitudes (so that epsilon counts too) and replaced only where the one call gives the same.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from graphclone.pytorch.extents import extent
from graphclone.pytorch.recognition.rewriting import Rewriter, behind_casts, calls, dtype, each, evaluate, pair, rank

MAGNITUDES = (1e-3, 1.0, 1e2)
EXACT = 1e-9
STEPS = 8  # nodes between the mean and the product with what is normalised


@dataclass(frozen=True)
class Found:
    """``end`` is the norm of ``source`` over its last axis of ``width``; ``centred``: a LayerNorm."""

    source: fx.Node
    end: fx.Node
    centred: bool
    width: int
    epsilon: float
    gain: fx.Node | None = None
    bias: fx.Node | None = None


def recognise_norms(rewriter: Rewriter) -> None:
    """Replace every decomposed norm, with as much of gain and bias as can be taken in."""
    for mean in each(rewriter.graph, torch.mean):
        core = _core(rewriter, mean)
        if core is None:
            continue
        options = [f for f in _with_affine(core) if _same_types(f) and _equal(f)]
        if options:
            _replace(rewriter, options[-1])
    rewriter.finish()


def _replace(rewriter: Rewriter, found: Found) -> None:
    at = found.end
    gain, bias = (_flat(rewriter, at, w) for w in (found.gain, found.bias))
    options = {"weight": gain, "eps": found.epsilon} | ({"bias": bias} if found.centred else {})
    function = F.layer_norm if found.centred else F.rms_norm
    given = {name: value for name, value in options.items() if value is not None}
    rewriter.replace(at, rewriter.insert(at, function, found.source, [found.width], **given))


def _flat(rewriter: Rewriter, at: fx.Node, weight: fx.Node | None) -> fx.Node | None:
    return weight if weight is None or rank(weight) == 1 else rewriter.insert(at, "reshape", weight, [-1])


def _core(rewriter: Rewriter, mean: fx.Node) -> Found | None:
    """From the mean of squares to the normalised value."""
    squared = behind_casts(mean.args[0])
    if not _over_last(mean) or not isinstance(squared, fx.Node):
        return None
    base = _square_root_of(squared)
    if base is None:
        return None
    centred = _mean_of(base)
    source = behind_casts(base if centred is None else centred)
    scale, epsilon = mean, 0.0
    for _ in range(STEPS):
        if len(scale.users) != 1:
            return None
        user = next(iter(scale.users))
        if calls(user, torch.mul, operator.truediv) and any(behind_casts(a) in (base, source) for a in user.args):
            width = extent(source, (rank(source) or 1) - 1) if rank(source) else None
            return Found(source, user, centred is not None, width, epsilon) if isinstance(width, int) else None
        if calls(user, torch.add) and (added := _beside(user, scale)) is not None:
            epsilon = rewriter.number(added) or 0.0
        elif not calls(user, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.pow, operator.truediv, "to"):
            return None
        scale = user
    return None


def _beside(node: fx.Node, operand: fx.Node) -> Any:
    """The other operand of two."""
    held = pair(node, lambda a: a is operand)
    return None if held is None else held[1]


def _over_last(mean: fx.Node) -> bool:
    dims: Any = mean.kwargs.get("dim")
    last = (rank(mean) or 0) - 1
    return bool(mean.kwargs.get("keepdim")) and dims is not None and list(dims) in ([-1], [last])


def _square_root_of(squared: fx.Node) -> fx.Node | None:
    base: Any = None
    power = calls(squared, torch.pow) and squared.args[1] in (2, 2.0)
    if power or (calls(squared, torch.mul) and squared.args[0] is squared.args[1]):
        base = behind_casts(squared.args[0])
    return base if isinstance(base, fx.Node) else None


def _mean_of(base: fx.Node) -> fx.Node | None:
    """x, where the base is x - mean(x)."""
    if not calls(base, torch.sub) or len(base.args) != 2:
        return None
    x, mean = base.args[0], behind_casts(base.args[1])
    is_mean = calls(mean, torch.mean) and _over_last(mean) and behind_casts(mean.args[0]) is behind_casts(x)
    return x if is_mean and isinstance(x, fx.Node) else None


def _with_affine(core: Found) -> list[Found]:
    """The core, then with its gain, then with its bias too: each step where the value is read once."""
    options, current = [core], core
    for function in (torch.mul, torch.add):
        end = current.end
        while len(end.users) == 1 and calls(next(iter(end.users)), "to"):
            end = next(iter(end.users))
        user = next(iter(end.users)) if len(end.users) == 1 else None
        vector = _beside(user, end) if user is not None and calls(user, function) else None
        if user is None or not _is_vector(vector, core.width):
            options.append(Found(**{**vars(current), "end": end}))
            break
        changed: Mapping[str, Any] = {"gain" if function is torch.mul else "bias": vector}
        current = Found(**{**vars(current), "end": user, **changed})
        options.append(current)
        if not core.centred:
            break
    return options


def _is_vector(value: Any, width: int) -> bool:
    """A weight along the last axis, or one plus it."""
    if calls(value, torch.add) and not isinstance(value.args[1], fx.Node):
        value = value.args[0]
    example = value.meta.get("example") if isinstance(value, fx.Node) and value.op == "get_attr" else None
    return isinstance(example, torch.Tensor) and example.numel() == width == example.shape[-1]


def _same_types(found: Found) -> bool:
    types = {dtype(n) for n in (found.source, found.end, found.gain, found.bias) if n is not None}
    return len(types) == 1


def _equal(found: Found) -> bool:
    """The nodes and the one call, on seeded numbers."""
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    vectors = {n: torch.rand(found.width, **draw) + 0.5 for n in (found.gain, found.bias) if n is not None}  # type: ignore[call-overload]
    for magnitude in MAGNITUDES:
        lead = [2] * ((rank(found.source) or 1) - 1)
        x = torch.randn(*lead, found.width, **draw) * magnitude + (magnitude if found.centred else 0)  # type: ignore[call-overload]
        try:
            written = evaluate(found.end, {found.source: x, **vectors})
        except (KeyError, RuntimeError, TypeError):
            return False
        gain, bias = (None if n is None else vectors[n] for n in (found.gain, found.bias))
        called = (
            F.layer_norm(x, [found.width], gain, bias, found.epsilon)
            if found.centred
            else F.rms_norm(x, [found.width], gain, found.epsilon)
        )
        if not (written.shape == called.shape and bool(((written - called).abs() <= EXACT * called.abs().max()).all())):
            return False
    return True
