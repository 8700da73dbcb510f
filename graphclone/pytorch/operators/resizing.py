"""Resizing along any axes: what ONNX Runtime's coordinates pick, in its own float32, or torch's interpolation."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.operators.rows import Call, row
from graphclone.pytorch.operators.sizes import rounded
from graphclone.pytorch.values import Scalar, Symbol

INTERPOLATED = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "cubic": {2: "bicubic"}}
"""What torch calls a mode, by the number of axes behind the first two."""

ALIGNED = {"align_corners": True, "half_pixel": False, "pytorch_half_pixel": False}
PICKED = ("asymmetric", *ALIGNED)
ROUNDINGS = ("floor", "ceil", "round_prefer_floor")
CENTRED = ("half_pixel", "pytorch_half_pixel")
SHORT = 12  # bits of a factor whose product with any size below 4096 is exact in float32


@dataclass(frozen=True)
class _Change:
    """What becomes of one axis: its new size, or the factor that its size is multiplied by."""

    size: Scalar = None
    scale: Scalar = None

    @property
    def whole(self) -> int:
        """The factor, where it is known to be a whole number; else 0."""
        known = isinstance(self.scale, (int, float)) and float(self.scale).is_integer()
        return int(self.scale) if known else 0


@row("Upsample", 9, numbers=(1,))
@row("Resize", 10, numbers=(1,))
def resize_by_scale(call: Call, x: Any, scales: list[Scalar]) -> Any:
    """Before opset 11 a smaller image took the pixel above, a larger one the pixel below (onnxruntime)."""
    if call.attr("mode", "nearest") != "nearest":
        raise call.refuse("opset 10 linear resizing: convert the model to opset 11 or later")
    if any(isinstance(s, Symbol) for s in scales):
        raise call.refuse("scales that depend on the graph's inputs: convert the model to opset 11 or later")
    for axis, change in _changes(call, x, scales, None).items():
        x = _nearest(call, x, {axis: change}, "asymmetric", "floor" if change.scale >= 1 else "ceil")
    return x


@row("Resize", 11, 13, 18, 19, numbers=(1, 2, 3))
def resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """The modes that torch computes with ONNX's own coordinates; the others are refused."""
    mode, transform = call.attr("mode", "nearest"), call.attr("coordinate_transformation_mode", "half_pixel")
    if call.attr("antialias", 0) or call.attr("exclude_outside", 0):
        raise call.refuse("antialias or exclude_outside")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("keep_aspect_ratio_policy")
    changes = _changes(call, x, scales or None, sizes or None)
    if not changes:
        return x
    if mode == "nearest":
        return _nearest(call, x, changes, transform, call.attr("nearest_mode", "round_prefer_floor"))
    if transform not in ALIGNED:
        raise call.refuse(f"mode {mode!r} with {transform!r} has no exact torch counterpart")
    if transform == "pytorch_half_pixel":
        x, changes = _single_pixels(call, x, changes)
    return _interpolated(call, x, changes, mode, ALIGNED[transform])


def _changes(call: Call, x: Any, scales: Any, sizes: Any) -> dict[int, _Change]:
    """The axes that are not known to stay as they are."""
    rank = call.rank(x)
    axes = [int(a) % rank for a in call.attr("axes", range(rank))]
    if sizes is not None:
        given = [(axis, _sized(call, call.size(x, axis), size)) for axis, size in zip(axes, sizes, strict=True)]
    else:
        given = [(axis, _Change(scale=scale)) for axis, scale in zip(axes, scales, strict=True)]
    return {axis: change for axis, change in sorted(given, key=lambda pair: pair[0]) if change.whole != 1}


def _sized(call: Call, had: Scalar, size: Scalar) -> _Change:
    if isinstance(had, Symbol) and isinstance(size, Symbol):
        return _Change(scale=1) if had.node is size.node else _Change(size)
    known = isinstance(had, int) and isinstance(size, int) and had > 0 and size % had == 0
    return _Change(size, size // had) if known else _Change(size)


def _nearest(call: Call, x: Any, changes: dict[int, _Change], transform: str, rounding: str) -> Any:
    """By whole factors half-pixel centres never fall halfway: every rounding picks what asymmetric floor picks."""
    plain = (transform, rounding) == ("asymmetric", "floor") or (
        transform in CENTRED and rounding.startswith("round_prefer")
    )
    factors = {axis: change.whole for axis, change in changes.items() if plain and change.whole}
    if len(factors) == len(changes) and min(factors) >= 2 and call.rank(x) <= 5:
        return F.interpolate(x, scale_factor=[float(factors.get(a, 1)) for a in range(2, call.rank(x))])
    for axis, change in changes.items():
        if axis in factors:
            x = x.repeat_interleave(factors[axis], dim=axis)
            continue
        if transform not in PICKED or rounding not in ROUNDINGS:
            raise call.refuse(f"nearest with {transform!r} and {rounding!r}")
        size = change.size if change.size is not None else _scaled(call, call.size(x, axis), change.scale)
        scale = change.scale if change.size is None else None
        x = call.recorder.call(pick_nearest, x, axis, size, scale, transform, rounding)
    return x


def _scaled(call: Call, size: Scalar, scale: Scalar) -> Scalar:
    product = call.recorder.call(operator.mul, size, scale)
    return call.recorder.call(math.floor, call.recorder.call(rounded, product))


def pick_nearest(
    x: torch.Tensor, axis: int, size: int, scale: float | None, transform: str, rounding: str
) -> torch.Tensor:
    """Resize an axis by taking one place for each; where they lie is computed in float32 (onnx Resize-19)."""
    held = x.size(axis)
    places = torch.arange(size, dtype=torch.float32, device=x.device)
    ratio = torch.full_like(places, size / held if scale is None else scale)
    if transform == "asymmetric":
        places = places / ratio
    elif transform == "align_corners":
        places = places * (held - 1) / max(size - 1, 1)
    elif size > 1 or transform == "half_pixel":
        places = (places + 0.5) / ratio - 0.5
    if rounding == "round_prefer_floor":
        places = torch.ceil(places - 0.5)
    else:
        places = torch.floor(places) if rounding == "floor" else torch.ceil(places)
    return x.index_select(axis, places.clamp(0, held - 1).long())


def _single_pixels(call: Call, x: Any, changes: dict[int, _Change]) -> tuple[Any, dict[int, _Change]]:
    """Where one place is left of an axis, pytorch_half_pixel takes the first."""
    left = dict(changes)
    for axis, change in changes.items():
        known = change.size is None and isinstance(change.scale, (int, float)) and isinstance(call.size(x, axis), int)
        size = _scaled(call, call.size(x, axis), change.scale) if known else change.size
        if isinstance(size, Symbol):
            x = call.recorder.call(first_if_one, x, axis, size)
        elif size == 1:
            x = x.narrow(axis, 0, 1)
            del left[axis]
    return x, left


def first_if_one(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """The first place of an axis, where it is to have one."""
    return x.narrow(axis, 0, 1) if size == 1 else x


def _interpolated(call: Call, x: Any, changes: dict[int, _Change], mode: str, align: bool) -> Any:
    rank = call.rank(x)
    if mode not in INTERPOLATED or (mode == "cubic" and call.attr("cubic_coeff_a", -0.75) != -0.75):
        raise call.refuse(f"mode {mode!r} with its cubic_coeff_a has no exact torch counterpart")
    size: list[Scalar] | None = None
    scale: list[Scalar] | None = None
    if any(change.size is not None for change in changes.values()):
        size = [changes[a].size if a in changes else call.size(x, a) for a in range(rank)]
    else:
        scale = [_factor(call, changes[a].scale) if a in changes else 1.0 for a in range(rank)]
    if any(axis < 2 for axis in changes) or rank < 3:
        return call.recorder.call(interpolate_along, x, size, scale, mode, align)
    name = INTERPOLATED[mode].get(rank - 2)
    if name is None:
        raise call.refuse(f"mode {mode!r} along {rank - 2} axes has no exact torch counterpart")
    size, scale = (None if given is None else given[2:] for given in (size, scale))
    return F.interpolate(x, size=size, scale_factor=scale, mode=name, align_corners=align)


def interpolate_along(
    x: torch.Tensor, size: list[int] | None, scale: list[float] | None, mode: str, align: bool
) -> torch.Tensor:
    """Interpolate along the axes that change; torch leaves the first two as they are, so others are moved there."""
    rank = x.dim()
    changed = [a for a in range(rank) if (scale[a] != 1 if scale else size is None or size[a] != x.size(a))]
    order = [a for a in range(rank) if a not in changed] + changed
    new = max(2 - (rank - len(changed)), 0)
    spatial = order[2 - new :]
    name = {"linear1": "linear", "linear2": "bilinear", "linear3": "trilinear", "cubic2": "bicubic"}.get(
        f"{mode}{len(spatial)}"
    )
    if name is None:
        raise ValueError(f"{mode} interpolation along {len(spatial)} axes")
    size = None if size is None else [size[a] for a in spatial]
    scale = None if scale is None else [scale[a] for a in spatial]
    moved = x.permute(order)[(None,) * new]
    moved = F.interpolate(moved, size=size, scale_factor=scale, mode=name, align_corners=align)
    return moved[(0,) * new].permute([order.index(a) for a in range(rank)])


def _factor(call: Call, scale: Scalar) -> Scalar:
    """torch rounds sizes down in float64 and ONNX in float32, where 10 * 0.7 is 7: a factor of as little more as
    float32 would round away gives the same sizes.
    """
    if not isinstance(scale, (int, float)):
        return call.recorder.call(float, scale)
    short = (math.frexp(scale)[0] * 2**SHORT).is_integer()
    return float(scale) if short else scale * (1 + 2**-25)
