"""How an image becomes pixels: resize, crop, rescale, normalise, as a preprocessor_config.json says or as asked.

Fields and their meaning: Hugging Face's image processors (transformers, image_processing_backends.py, and
image_processing_convnext.py for ``crop_pct``, image_processing_levit.py for its edge). A field is understood, says
nothing about pixels, or is refused by name; so are processors that do otherwise than their fields say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from graphclone import folders
from graphclone.errors import BadData, InvalidTarget, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, Any]
T = TypeVar("T")
Size = tuple[int, int]  # height, width
INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers
CHANNELS = ("rgb", "bgr")
WARPED_FROM = 384  # shortest edge from which ConvNeXt's processor resizes without cropping
DONE = {
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order", "do_convert_rgb"),
    *("size", "crop_size", "crop_pct", "resample", "rescale_factor", "image_mean", "image_std"),
    *("image_processor_type", "feature_extractor_type", "default_to_square"),
}
NOT_OF_PIXELS = {  # who made or reads the file, how its arrays lie in memory, and what becomes of labels
    *("processor_class", "auto_map", "_valid_processor_keys", "name_or_path", "transformers_version", "_commit_hash"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "model_input_names"),
    *("do_reduce_labels", "reduce_labels", "do_convert_annotations", "num_labels", "format"),
}
NEUTRAL: Mapping[str, object] = {"ensure_multiple_of": 1}  # beside None, false and what is empty: these change nothing
KEEPS_SHAPE = ("CLIP", "Bit", "ConvNext", "MobileNet", "PoolFormer", "Levit", "MobileViT")  # `size: 224`: shortest edge
NOT_NORMALISED = ("MobileViT",)  # their configuration has a mean all the same
EDGE_TIMES: Mapping[str, float] = {"Levit": 256 / 224}  # the shortest edge becomes so many times what is said
OTHERWISE: Mapping[str, str] = {  # and no field says so
    "Perceiver": "crops in proportion to the image",
    "LayoutLMv2": "turns the channels round",
}


@dataclass(frozen=True)
class Recipe:
    """resize: to a size, or the shortest edge to a number. mean and std: of pixels times ``scale``, a channel each."""

    resize: Size | int | None
    crop: Size | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    interpolation: str = "bilinear"
    channels: str = "rgb"
    origin: str = "asked for"

    def __str__(self) -> str:
        steps = [
            f"shortest edge to {self.resize}" if isinstance(self.resize, int) else "",
            f"resized to {_by(self.resize)}" if isinstance(self.resize, tuple) else "",
            f"cropped to {_by(self.crop)}" if self.crop else "",
            f"times {self.scale:.6g}, minus {_list(self.mean)}, by {_list(self.std)}",
        ]
        how = f"{self.interpolation}, {self.channels.upper()}"
        return f"images: {', '.join(step for step in steps if step)} ({how}; {self.origin})"

    def pixels(self, image: Image, colours: int) -> Array:
        """float32 [colours, height, width]."""
        held = image.convert("L" if colours == 1 else "RGB")
        if self.resize is not None:
            height, width = self._size(held.height, held.width)
            held = held.resize((width, height), INTERPOLATIONS[self.interpolation])
        pixels_HWC = np.asarray(held, np.float32).reshape(held.height, held.width, colours)
        if self.crop is not None:
            pixels_HWC = _cropped(pixels_HWC, self.crop)
        if self.channels == "bgr":
            pixels_HWC = pixels_HWC[..., ::-1]
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return np.ascontiguousarray(((pixels_HWC * np.float32(self.scale) - mean) / std).transpose(2, 0, 1))

    def _size(self, height: int, width: int) -> Size:
        if not isinstance(self.resize, int):
            return self.resize or (height, width)
        short, long = sorted((height, width))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if height <= width else (longer, self.resize)


def _cropped(pixels_HWC: Array, size: Size) -> Array:
    """The middle; what is smaller than the crop is padded with black, more of it before than after."""
    for axis, wanted in enumerate(size):
        missing = wanted - pixels_HWC.shape[axis]
        if missing > 0:
            around = [(0, 0)] * 3
            around[axis] = (-(-missing // 2), missing // 2)
            pixels_HWC = np.pad(pixels_HWC, around)
        start = (pixels_HWC.shape[axis] - wanted) // 2
        pixels_HWC = np.take(pixels_HWC, range(start, start + wanted), axis)
    return pixels_HWC


def find(asked: str | None, model: Path | None) -> Recipe:
    """The recipe that is asked for (a file, or ``resize=256,crop=224,...``), or the one beside the model.

    Raises BadData where there is none or it is not understood, InvalidTarget where what is asked makes no sense.
    """
    if asked is not None and "=" in asked:
        return _asked(asked)
    file = Path(asked) if asked is not None else None
    if file is None and model is not None and (beside := folders.beside(model, "preprocessor_config.json")).is_file():
        file = beside
    if file is None:
        raise BadData(
            "images need the recipe that the model was trained with: put its preprocessor_config.json beside it, or "
            "give --images such as resize=256,crop=224,mean=0.5,std=0.5,interpolation=bicubic"
        )
    try:
        held = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as reason:
        raise BadData(f"{file}: not a preprocessor_config.json ({one_line(reason, 100)})") from None
    if not isinstance(held, dict):
        raise BadData(f"{file}: not a preprocessor_config.json (it holds {type(held).__name__})")
    try:
        return _configured(held, str(file))
    except (TypeError, ValueError, KeyError, StopIteration) as reason:
        raise BadData(f"{file}: a field of the recipe is not understood ({type(reason).__name__}: {reason})") from None


def _configured(held: Mapping[str, Any], origin: str) -> Recipe:
    kind = str(held.get("image_processor_type", held.get("feature_extractor_type", "")))
    _refuse_strange(held, kind, origin)
    resize: Size | int | None = None
    crop: Size | None = None
    if held.get("do_resize", "size" in held):
        square = held.get("default_to_square")
        keeps_shape = kind.startswith(KEEPS_SHAPE) or "crop_pct" in held if square is None else not square
        resize = _resize(held["size"], keeps_shape)
        resize = int(_of_kind(EDGE_TIMES, kind, 1) * resize) if isinstance(resize, int) else resize
    if held.get("do_center_crop", False):
        crop = _pair(held["crop_size"])
    if isinstance(resize, int) and "crop_pct" in held:
        whole = resize >= WARPED_FROM
        resize, crop = ((resize, resize), None) if whole else (int(resize / held["crop_pct"]), (resize, resize))
    normalise = held.get("do_normalize", "image_mean" in held) and not kind.startswith(NOT_NORMALISED)
    number = int(held.get("resample", INTERPOLATIONS["bilinear"]))
    return Recipe(
        resize,
        crop,
        _numbers(held["image_mean"]) if normalise else (0.0,),
        _numbers(held["image_std"]) if normalise else (1.0,),
        float(held.get("rescale_factor", 1 / 255)) if held.get("do_rescale", True) else 1.0,
        next(name for name, value in INTERPOLATIONS.items() if value == number),
        CHANNELS[bool(held.get("do_flip_channel_order", False))],
        origin,
    )


def _refuse_strange(held: Mapping[str, Any], kind: str, origin: str) -> None:
    """Raises BadData for what would change pixels and is not done here."""
    instead = "preprocess the images into .npz batches, or say the recipe with --images"
    otherwise = _of_kind(OTHERWISE, kind, "")
    if otherwise:
        raise BadData(f"{origin}: {kind} {otherwise}, which is not done here: {instead}")
    for name in sorted(set(held) - DONE - NOT_OF_PIXELS):
        if held[name] and held[name] != NEUTRAL.get(name):
            raise BadData(f"{origin}: {name} is not done here: {instead}")


def _of_kind(table: Mapping[str, T], kind: str, default: T) -> T:
    """The row of a processor: names of the classes vary behind their model (Levit in LevitImageProcessorFast)."""
    return next((row for name, row in table.items() if kind.startswith(name)), default)


def _resize(size: Any, keeps_shape: bool) -> Size | int:
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    if isinstance(size, int) and keeps_shape:
        return size
    return _pair(size)


def _pair(size: Any) -> Size:
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if isinstance(size, int):
        return size, size
    raise ValueError(f"size {size}")


def _numbers(held: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (held if isinstance(held, list) else [held]))


# what may be asked for by name -> how its text is read
_FLAGS: dict[str, Callable[[str], Any]] = {
    "resize": lambda text: _hxw(text) if "x" in text else int(text),
    "crop": lambda text: _hxw(text) if "x" in text else (int(text), int(text)),
    "mean": lambda text: tuple(float(part) for part in text.split("/")),
    "std": lambda text: tuple(float(part) for part in text.split("/")),
    "scale": float,
    "interpolation": lambda text: {name: name for name in INTERPOLATIONS}[text],
    "channels": lambda text: {name: name for name in CHANNELS}[text],
}


def _asked(text: str) -> Recipe:
    held: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            held[name] = _FLAGS[name](value)
        except (KeyError, ValueError):
            raise InvalidTarget(
                f"--images {part.strip()!r}: it is a file, or resize=256 (the shortest edge) or 256x256, crop=224, "
                f"mean=0.5 or 0.48/0.46/0.41, std, scale, interpolation={'|'.join(INTERPOLATIONS)}, channels=rgb|bgr"
            ) from None
    missing = [name for name in ("mean", "std") if name not in held]
    if missing:
        raise InvalidTarget(f"--images {text}: {' and '.join(missing)} of the pixels is missing, such as mean=0.5")
    if min(held["std"]) <= 0 or any(size < 1 for size in _sizes(held)):
        raise InvalidTarget(f"--images {text}: sizes and std have to be above 0")
    return Recipe(held.pop("resize", None), held.pop("crop", None), **held)


def _sizes(held: Mapping[str, Any]) -> list[int]:
    found = [held.get("resize", 1), *held.get("crop", ())]
    return [size for part in found for size in (part if isinstance(part, tuple) else (part,))]


def _hxw(text: str) -> Size:
    height, width = text.split("x")
    return int(height), int(width)


def _by(size: Size | None) -> str:
    return "x".join(map(str, size or ()))


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
