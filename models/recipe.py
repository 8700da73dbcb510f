"""What a recipe is: a name, a loader that gives a PyTorch parent, and what its ONNX file will look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from graphclone.errors import InvalidTarget

if TYPE_CHECKING:
    from torch import Tensor, nn

Exporter = Literal["dynamo", "torchscript", "asis"]
Attention = Literal["eager", "sdpa"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)

Axes = Mapping[str, Mapping[int, str]]
"""Dynamic axes: value name -> {axis: symbol}."""


@dataclass(frozen=True)
class Shape:
    """The sizes that a seeded recipe lets the caller choose; None where the architecture has no such size."""

    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    ffn: int | None = None
    layers: int | None = None

    def override(self, name: str, wanted: Shape) -> Shape:
        """This shape with the sizes of ``wanted`` in place of its own.

        Raises InvalidTarget for a size that the architecture cannot choose or that is not positive.
        """
        sizes = {f.name: value for f in fields(wanted) if (value := getattr(wanted, f.name)) is not None}
        for size, value in sizes.items():
            if getattr(self, size) is None:
                free = [f.name for f in fields(self) if getattr(self, f.name) is not None]
                can = f"it has {', '.join(free)}" if free else "its shape is fixed: its weights are trained"
                raise InvalidTarget(f"recipe {name} cannot choose {size}={value}: {can}")
            if value < 1:
                raise InvalidTarget(f"recipe {name}: {size}={value} is not positive")
        return replace(self, **sizes)


@dataclass(frozen=True)
class Options:
    """How a recipe is to be built. ``seed`` and ``shape`` matter to seeded recipes alone."""

    exporter: Exporter = "dynamo"
    attention: Attention = "sdpa"
    seed: int = 0
    shape: Shape = Shape()


@dataclass(frozen=True)
class Parent:
    """A PyTorch module with all that an exporter needs to know about it.

    ``inputs`` are example tensors by name, in the order of the module's ``forward``; ``outputs`` are the names given
    to what it returns; ``axes`` are the axes that stay dynamic.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    axes: Axes
    tokenizer: Path | str | None = None
    """A tokenizer.json: its path, or its text."""
    folder: Path | None = None
    """The whole checkpoint that it was read from, where it ships as one."""


@dataclass(frozen=True)
class Recipe:
    """One row of the table of recipes."""

    name: str
    summary: str
    shape: Shape
    load: Callable[[Options], Parent] | None = None
    """Gives the PyTorch parent; None where the file is taken as it ships."""
    ready: Callable[[], Path] | None = None
    """Where the ready-made ONNX file lies; None where it has to be exported."""
    packages: tuple[str, ...] = field(default=("torch", "transformers", "onnxscript"))
    """Distributions that the recipe reads from, as pip names them."""

    def __post_init__(self) -> None:
        if (self.load is None) == (self.ready is None):
            raise ValueError(f"recipe {self.name} needs either a loader or a ready file")

    @property
    def seeded(self) -> bool:
        """True for a parent of random weights, whose shape the caller may choose."""
        return self.shape != Shape()

    @property
    def exporters(self) -> tuple[Exporter, ...]:
        """The exporters that this recipe goes through."""
        return EXPORTERS if self.load is not None else ("asis",)
