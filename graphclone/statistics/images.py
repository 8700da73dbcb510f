"""Images of folders and records -> batches of pixels by a recipe (Pillow)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphclone.errors import BadData, one_line
from graphclone.feeds import Input
from graphclone.requirements import FEATURES
from graphclone.statistics import records
from graphclone.statistics.reading import Array, Asked, Reading, files_of, sha256_of
from graphclone.statistics.recipe import Recipe, find

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
COLOURS = (1, 3)
COLUMN = "image"  # of records, unless another is asked for
Named = tuple[str, object]  # where an image is from, and the image: a file, its bytes, or Pillow's


@dataclass(frozen=True)
class Pictures:
    """Images with a name each. ``pick`` gives one by number, where that is possible; ``stream`` gives all, in order.

    An image is a file, its bytes, or already Pillow's. read: what the fingerprint is made of.
    """

    spec: str
    count: int
    stream: Callable[[], Iterator[Named]]
    pick: Callable[[int], Named] | None
    read: Sequence[Path | str]


def folder(spec: str, column: str | None = None) -> Pictures:
    """An image, or all in a folder and the folders in it, in order of path. There are no columns."""
    path = Path(spec)
    files = images_in(path) if path.is_dir() else [path]
    names = "\0".join(str(file.relative_to(path)) for file in files) if path.is_dir() else ""
    pairs = [(str(file), file) for file in files]
    return Pictures(spec, len(files), lambda: iter(pairs), lambda number: pairs[number], [*files, names])


def dataset(spec: str, column: str | None = None) -> Pictures:
    """``datasets:NAME_OR_FOLDER[:split[:column]]``; the column is ``image``, unless another is named."""
    held, column, read = records.dataset(spec, column or COLUMN)

    def pick(number: int) -> Named:
        where = f"{spec}: row {number}, column {column}"
        try:
            return where, held[number][column]
        except (OSError, ValueError, SyntaxError) as reason:  # as Pillow raises
            raise BadData(f"{where}: not an image that can be read ({one_line(reason, 200)})") from None

    return Pictures(spec, len(held), lambda: map(pick, range(len(held))), pick, read)


def parquet(spec: str, column: str | None = None) -> Pictures:
    """Parquet files with a column of image files (bytes, or bytes and a path); ``image``, unless another is named."""
    files = files_of(spec, (".parquet",))
    column = column or COLUMN
    count = sum(records.parquet_column(file, column)[1].num_rows for file in files)

    def stream() -> Iterator[Named]:
        return (row for file in files for row in records.parquet_rows(file, column))

    return Pictures(spec, count, stream, None, [*files, column])


def takes_pixels(known: Mapping[str, Input]) -> bool:
    """Whether images are what a graph wants."""
    return all(given.dtype.kind in "fV" and len(given.shape) == 4 for given in known.values() if given.primary)


def prepared(pictures: Callable[[str, str | None], Pictures]) -> Callable[[str, Asked], Reading]:
    """What reads batches of some kind of pictures."""
    return lambda spec, asked: _batches(pictures, spec, asked)


def _batches(pictures: Callable[[str, str | None], Pictures], spec: str, asked: Asked) -> Reading:
    given, first, colours = _pixels_input(spec, asked.known)
    pillow = _pillow(spec)
    recipe = find(asked.images, asked.model.path)
    _refuse_other_size(recipe, given, first)
    held, per = pictures(spec, asked.column), asked.batch_size
    fixed = isinstance(given.shape[0], int)
    count = held.count // per if fixed else -(-held.count // per)
    if not count:
        raise BadData(f"{spec}: {held.count} images, the graph takes {per} at once ({given})")

    def batch(named: Sequence[Named]) -> Mapping[str, Array]:
        made = [_read(name, image, recipe, colours, pillow) for name, image in named]
        odd = next((k for k, array in enumerate(made) if array.shape != made[0].shape), None)
        if odd is not None:
            sizes = " and ".join(f"{'x'.join(map(str, made[k].shape[1:]))} ({named[k][0]})" for k in (0, odd))
            raise BadData(f"{spec}: images of different sizes after the recipe, {sizes}: it needs a crop")
        pixels = np.stack(made)
        return {given.name: (pixels if first else pixels.transpose(0, 2, 3, 1)).astype(given.dtype)}

    def at(number: int) -> Mapping[str, Array]:
        assert held.pick is not None
        return batch([held.pick(k) for k in range(number * per, min((number + 1) * per, held.count))])

    def batches() -> Iterator[Mapping[str, Array]]:
        stream = held.stream()
        return (batch(list(islice(stream, per))) for _ in range(count))

    return Reading(
        f"{spec} ({held.count} images)",
        batches,
        lambda: sha256_of(*held.read, str(recipe), str(per)),
        count,
        at=None if held.pick is None else at,
        notes=(str(recipe),),
    )


def images_in(folder: Path) -> list[Path]:
    """All images under a folder, in order of path."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())


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
        raise FEATURES["data"].missing(f"{spec}: images") from None
    return Image


def _read(name: str, image: object, recipe: Recipe, colours: int, pillow: Any) -> Array:
    held = image.get("bytes") if isinstance(image, Mapping) else image
    try:
        if isinstance(held, pillow.Image):
            return recipe.pixels(held, colours)
        if not isinstance(held, Path | bytes):
            raise BadData(f"{name} holds {type(image).__name__}, not an image: name the field with --column")
        with pillow.open(BytesIO(held) if isinstance(held, bytes) else held) as opened:
            return recipe.pixels(opened, colours)
    except (OSError, ValueError, SyntaxError, EOFError, pillow.DecompressionBombError) as reason:  # as Pillow raises
        raise BadData(f"{name}: not an image that can be read ({one_line(reason, 200)})") from None
