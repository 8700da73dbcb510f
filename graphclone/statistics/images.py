"""Folders of images -> batches of pixels by a recipe (Pillow)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphclone.errors import BadData, InvalidTarget
from graphclone.feeds import Input
from graphclone.statistics.reading import Array, Asked, Reading, sha256_of
from graphclone.statistics.recipe import Recipe, find

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
COLOURS = (1, 3)


def open_images(spec: str, asked: Asked) -> Reading:
    """An image, or all in a folder and the folders in it, in order of path. Raises BadData."""
    path = Path(spec)
    files = images_in(path) if path.is_dir() else [path]
    given, first, colours = _pixels_input(spec, asked.known)
    pillow = _pillow(spec)
    recipe = find(asked.images, asked.model.path)
    _refuse_other_size(recipe, given, first)
    per = asked.batch_size
    fixed = isinstance(given.shape[0], int)
    count = len(files) // per if fixed else -(-len(files) // per)
    if not count:
        raise BadData(f"{spec}: {len(files)} images, the graph takes {per} at once ({given})")

    def at(number: int) -> Mapping[str, Array]:
        held = files[number * per : (number + 1) * per]
        made = [_read(file, recipe, colours, pillow) for file in held]
        odd = next((k for k, array in enumerate(made) if array.shape != made[0].shape), None)
        if odd is not None:
            sizes = " and ".join(f"{'x'.join(map(str, made[k].shape[1:]))} ({held[k]})" for k in (0, odd))
            raise BadData(f"{spec}: images of different sizes after the recipe, {sizes}: it needs a crop")
        batch = np.stack(made)
        return {given.name: (batch if first else batch.transpose(0, 2, 3, 1)).astype(given.dtype)}

    names = "\0".join(str(file.relative_to(path)) for file in files) if path.is_dir() else ""
    return Reading(
        f"{spec} ({len(files)} images)",
        lambda: map(at, range(count)),
        lambda: sha256_of(*files, names, str(recipe), str(per)),
        count,
        at=at,
        notes=(str(recipe),),
    )


def images_in(folder: Path) -> list[Path]:
    """All images under a folder, in order of path."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())


def holds_images(spec: str) -> bool:
    """Whether a path is an image or a folder with one somewhere in it."""
    path = Path(spec)
    if path.is_dir():
        return any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))
    return path.suffix.lower() in SUFFIXES


def _pixels_input(spec: str, known: Mapping[str, Input]) -> tuple[Input, bool, int]:
    """The input that takes pixels, whether its channels come before height and width, and how many they are."""
    primary = [given for given in known.values() if given.primary]
    pixels = [given for given in primary if len(given.shape) == 4 and given.dtype.kind in "fV"]
    if len(pixels) != 1 or len(primary) != 1:
        raise BadData(
            f"{spec}: images, but the graph wants {', '.join(map(str, primary))}: give .npz batches of all its inputs"
        )
    shape = pixels[0].shape
    for axis, first in ((1, True), (3, False)):
        size = shape[axis]
        if isinstance(size, int) and size in COLOURS:
            return pixels[0], first, size
    if isinstance(shape[1], int):
        raise BadData(f"{spec}: images have 1 or 3 channels, the graph wants {pixels[0]}: give .npz batches")
    return pixels[0], True, 3  # symbolic: [batch, channels, height, width] is what exporters of PyTorch write


def _refuse_other_size(recipe: Recipe, given: Input, first: bool) -> None:
    made = recipe.crop or (recipe.resize if isinstance(recipe.resize, tuple) else None)
    wanted = given.shape[2:] if first else given.shape[1:3]
    if made and any(isinstance(want, int) and want != size for want, size in zip(wanted, made, strict=True)):
        raise BadData(
            f"the graph wants {given}, the recipe makes images of {made[0]}x{made[1]} ({recipe.origin}): give --images "
            "with the size of the graph"
        )


def _pillow(spec: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InvalidTarget(f"{spec}: images need Pillow: pip install 'graphclone[data]'") from None
    return Image


def _read(file: Path, recipe: Recipe, colours: int, pillow: Any) -> Array:
    try:
        with pillow.open(file) as image:
            return recipe.pixels(image, colours)
    except (OSError, ValueError, SyntaxError, EOFError, pillow.DecompressionBombError) as reason:  # as Pillow raises
        raise BadData(f"{file}: not an image that can be read ({' '.join(str(reason).split())[:200]})") from None
