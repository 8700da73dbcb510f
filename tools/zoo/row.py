"""What a row of the matrix is: an architecture of transformers at sizes of our choice, with random weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from models.recipe import Attention, Parent
from models.seeding import randomise

if TYPE_CHECKING:
    from torch import Tensor

BATCH, LENGTH, VOCAB, POSITIONS = 2, 11, 131, 79
BOTH: Mapping[int, str] = {0: "batch", 1: "sequence"}


@dataclass(frozen=True)
class Sizes:
    """The shape of one parent. ``head_dim`` is hidden / heads where the architecture couples them."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    layers: int


@dataclass(frozen=True)
class Expected:
    """One stack as the configuration describes it; the same numbers that graphclone has to find in the graph."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    attentions: int = 1  # of a block: two with cross-attention


@dataclass(frozen=True)
class Example:
    """What an architecture is fed and answers."""

    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One architecture.

    ``names`` maps the configuration's field to ours (a field of Sizes); ``settings`` are the rest of its fields, or a
    function of the sizes. ``coupled``: head_dim is hidden / heads in the configuration. ``free_ffn``: the configuration
    can choose ffn.
    """

    name: str
    architecture: str
    configuration: str
    names: Mapping[str, str]
    example: Callable[[], Example]
    sizes: Sizes
    settings: Mapping[str, Any] | Callable[[Sizes], Mapping[str, Any]] = field(default_factory=dict)
    coupled: bool = True
    ffn_ratio: int | None = None  # ffn is this many times hidden, always
    decoder: str | None = None  # how its KV cache is fed: "cache"
    stacks: Callable[[Sizes], tuple[Expected, ...]] | None = None
    fused: str | None = None  # model_type of onnxruntime.transformers.optimizer
    genai: bool = False  # onnxruntime-genai's builder knows it
    period: int = 1  # layers of this many kinds alternate: without one of them no configuration has what is left
    only: str | None = None  # the one column of a row that is not transformers'
    attention: Attention = "sdpa"

    def configure(self, sizes: Sizes) -> Any:
        """The transformers configuration at these sizes."""
        import transformers

        held = asdict(sizes)
        settings = self.settings(sizes) if callable(self.settings) else self.settings
        fields = {theirs: held[ours] for theirs, ours in self.names.items()} | dict(settings)
        return getattr(transformers, self.configuration)(attn_implementation=self.attention, **fields)

    def load(self, sizes: Sizes, *, merged: bool = False) -> Parent:
        """The parent in evaluation mode; ``merged`` leaves fresh biases (zero) and gains (one) as they are."""
        import torch
        import transformers

        seed = zlib.crc32(self.name.encode())
        torch.manual_seed(seed)
        module = getattr(transformers, self.architecture)(self.configure(sizes)).eval()
        if not merged:
            randomise(module, seed)
        example = self.example()
        return Parent(module, example.inputs, example.outputs, example.axes)

    def expected(self, sizes: Sizes) -> tuple[Expected, ...]:
        """The stacks that graphclone has to find."""
        if self.stacks is not None:
            return self.stacks(sizes)
        return (one_stack(sizes),)


def one_stack(sizes: Sizes, **changes: int) -> Expected:
    """A stack of these sizes, some of them changed."""
    held = {
        "hidden": sizes.hidden,
        "layers": sizes.layers,
        "heads": sizes.heads,
        "kv_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "ffn": sizes.ffn,
    }
    return Expected(**(held | changes))


def tokens(outputs: tuple[str, ...], *, mask: bool = True) -> Callable[[], Example]:
    """Token ids and their mask, one row padded on the right."""

    def make() -> Example:
        import torch

        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=generator)
        inputs = {"input_ids": ids}
        if mask:
            inputs["attention_mask"] = torch.ones_like(ids)
            inputs["attention_mask"][-1, -3:] = 0
        return Example(inputs, dict.fromkeys(inputs, BOTH), outputs)

    return make


def pixels(outputs: tuple[str, ...], side: int = 32) -> Callable[[], Example]:
    """Images of one fixed side, the batch dynamic."""

    def make() -> Example:
        import torch

        images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(0))
        return Example({"pixel_values": images}, {"pixel_values": {0: "batch"}}, outputs)

    return make
