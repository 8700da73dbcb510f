"""What a graph wants to be fed: the meaning of each input, rules for the auxiliary ones, and a check of what is given.

Roles come from names, types and from the graph itself (an integer input that indexes rows of an initializer holds
ids, and the rows are its vocabulary). Token ids and features are *primary*: only data can give them. Every other role
is filled by rule. An input without a role is refused by name, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphclone.caches import cache_shape
from graphclone.convolutions import Window, samples, stride, windows
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.given import arrays_of
from graphclone.graph import Model

Array = np.ndarray[Any, Any]
Dim = int | str | None
IMAGE_SIDE = 224  # pixels, where an image's size is symbolic; rounded to the patch that the graph cuts
DEFAULT_ROWS = 32  # ids of the tiny feeds stay below this where the embedding is not found
MOST_DRAWN = 1 << 40  # numbers in one input


@dataclass(frozen=True)
class Extent:
    """The concrete sizes of one batch."""

    batch: int
    length: int
    named: Mapping[str, int] = field(default_factory=dict)  # sizes that symbolic axes have in the primary inputs


@dataclass(frozen=True)
class Role:
    """What an input is for. ``make`` gives its value for a batch, or is None where only data can."""

    name: str
    pattern: re.Pattern[str]
    kinds: str  # NumPy dtype kinds it may have; V is bfloat16
    make: Callable[[Input, Extent], Array] | None
    rule: str  # what is filled in, in words


@dataclass(frozen=True)
class Input:
    """One input of the graph. ``rows``: how many rows the table that it indexes has, where it indexes one."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    role: Role
    rows: int | None = None
    stride: int = 1  # of the convolution that reads it: the patch size of an image
    windows: tuple[Window, ...] = ()  # of the convolutions that a signal goes through

    @property
    def primary(self) -> bool:
        """Whether only data can give it."""
        return self.role.make is None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{_shown(self.shape)}"

    def sizes(self, extent: Extent, other: int | None = None) -> tuple[int, ...]:
        """Concrete shape: fixed axes as declared, the batch and length of ``extent``; ``other`` for the rest."""
        found = []
        for axis, dim in enumerate(self.shape):
            if isinstance(dim, int):
                found.append(dim)
            elif isinstance(dim, str) and dim in extent.named:
                found.append(extent.named[dim])
            elif axis == 0 and len(self.shape) > 1 or isinstance(dim, str) and "batch" in dim.lower():
                found.append(extent.batch)
            else:
                found.append(extent.length if other is None else other)
        return tuple(found)


def _ones(given: Input, extent: Extent) -> Array:
    return np.ones(given.sizes(extent), given.dtype)


def _zeros(given: Input, extent: Extent) -> Array:
    return np.zeros(given.sizes(extent), given.dtype)


def _mask(given: Input, extent: Extent) -> Array:
    """Float masks of three and more axes are added to the scores: nothing masked is 0 there, 1 elsewhere."""
    added = given.dtype.kind in "fV" and len(given.shape) > 2
    return _zeros(given, extent) if added else _ones(given, extent)


def _positions(given: Input, extent: Extent) -> Array:
    sizes = given.sizes(extent)
    return np.broadcast_to(np.arange(sizes[-1]), sizes).astype(given.dtype)


def _cache(given: Input, extent: Extent) -> Array:
    """[batch, kv_head, 0, head_dim] in whatever order: every free axis but the batch is the empty past."""
    return np.zeros(given.sizes(extent, other=0), given.dtype)


def _length(given: Input, extent: Extent) -> Array:
    return np.full(given.sizes(extent), extent.length, given.dtype)


def _last(given: Input, extent: Extent) -> Array:
    return np.full(given.sizes(Extent(extent.batch, extent.batch)), extent.length - 1, given.dtype)


def _role(name: str, pattern: str, kinds: str, make: Callable[[Input, Extent], Array] | None, rule: str) -> Role:
    return Role(name, re.compile(pattern, re.IGNORECASE), kinds, make, rule)


# first match wins
ROLES: tuple[Role, ...] = (
    _role("cache", r"past|cache_?(k|v)|(k|v)_?cache|key_cache|value_cache|kv_?cache", "fV", _cache, "empty"),
    _role("flag", r"use_cache", "b", _zeros, "false"),
    _role("kept logits", r"logits_to_keep|num_logits", "iu", _zeros, "0 (all)"),
    _role("sequence length", r"seqlens_k", "iu", _last, "length - 1"),
    _role("total length", r"total_seq|seq(uence)?_len(gth)?s?$", "iu", _length, "the length"),
    _role("positions", r"position|cache_pos", "iu", _positions, "0, 1, 2, ..."),
    _role("token types", r"token_type|segment|type_ids", "iu", _zeros, "zeros"),
    _role("mask", r"mask", "iubfV", _mask, "nothing masked"),
    _role("tokens", r"(^|[_./])(input|decoder_input|encoder_input)?_?(ids|tokens?)(\.\d+)?$", "iu", None, ""),
    _role("features", r"", "fV", None, ""),
)
BY_USE = {  # integer inputs whose name says nothing, by whether they index a table
    True: _role("tokens", r"", "iu", None, ""),
    False: _role("mask", r"", "iub", _mask, "nothing masked"),
}

# operators that hand an index on unchanged: (op, inputs that carry it)
_CARRIERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand"), (0,)),
    "Where": (1, 2),
}
# operators that look rows up: (domain, op) -> {input with ids: input with the table}
LOOKUPS = {
    ("", "Gather"): {1: 0},
    ("com.microsoft", "GatherBlockQuantized"): {1: 0},
    ("com.microsoft", "EmbedLayerNormalization"): {0: 2, 1: 4, 7: 3},
}
_WEIGHT_CARRIERS = ("Cast", "Identity", "DequantizeLinear", "Mul")


def inputs(model: Model) -> dict[str, Input]:
    """The graph's inputs by name, in order. Raises UnsupportedGraph for one that no rule understands.

    >>> import onnx_graphsurgeon as gs
    >>> ids = gs.Variable("input_ids", np.int64, ["batch", "length"])
    >>> mask = gs.Variable("attention_mask", np.int64, ["batch", "length"])
    >>> [str(i) + ": " + i.role.name for i in inputs(Model(gs.Graph(inputs=[ids, mask]))).values()]
    ['input_ids int64[batch, length]: tokens', 'attention_mask int64[batch, length]: mask']
    """
    return {tensor.name: _understand(tensor, f"{model.path or 'model'}: ") for tensor in model.graph.inputs}


def _understand(tensor: gs.Tensor, where: str) -> Input:
    if tensor.dtype is None or tensor.shape is None or tensor.type != "tensor_type":
        raise UnsupportedGraph(f"{where}input {tensor.name!r} is no tensor of known type and rank: export it with both")
    dtype = tensor.dtype
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)
    shape = cache_shape(tensor, tuple(d if isinstance(d, str) or d and d > 0 else None for d in tensor.shape))
    rows = _rows(tensor) if dtype.kind in "iu" else None
    role = next((r for r in ROLES if dtype.kind in r.kinds and r.pattern.search(tensor.name)), None)
    if role is None and len(shape) == 2 and dtype.kind in "iub":
        role = BY_USE[rows is not None]
    if role is None:
        raise UnsupportedGraph(
            f"{where}input {tensor.name} {dtype}{_shown(shape)} has no known meaning: rename it after what it holds "
            f"({', '.join(r.name for r in ROLES)}), or bake it into the graph"
        )
    return Input(tensor.name, dtype, shape, role, rows, stride(tensor), windows(tensor))


def _rows(tensor: gs.Tensor) -> int | None:
    """Rows of the smallest table that the ids index, or None."""
    found, stack, seen = [], [tensor], {tensor.name}
    while stack:
        held = stack.pop()
        for node in held.outputs:
            places = [k for k, t in enumerate(node.inputs) if t is held]
            lookups = LOOKUPS.get((node.domain or "", node.op), {})
            for place in places:
                table = _table(node.inputs[lookups[place]]) if place in lookups else None
                if table is not None:
                    found.append(int(table.shape[int(node.attrs.get("axis", node.attrs.get("gather_axis", 0)))]))
                if place in _CARRIERS.get(node.op, ()) and node.outputs[0].name not in seen:
                    seen.add(node.outputs[0].name)
                    stack.append(node.outputs[0])
    return min(found, default=None)


def _table(tensor: gs.Tensor) -> gs.Constant | None:
    """The initializer behind a looked-up table of two axes; integer tables are not embeddings."""
    while not isinstance(tensor, gs.Constant):
        if not tensor.inputs or tensor.inputs[0].op not in _WEIGHT_CARRIERS:
            return None
        tensor = tensor.inputs[0].inputs[0]
    embedding = len(tensor.shape) == 2 and (tensor.dtype != np.int64 and tensor.dtype != np.int32)
    return tensor if embedding else None


def tiny_feeds(
    model: Model, batch: int = 2, length: int = 7, *, seed: int | np.random.SeedSequence = 0
) -> dict[str, Array]:
    """Concrete small inputs for a run: ids inside the vocabulary, normal features, every auxiliary input by rule.

    Fixed axes stay as declared; an image whose size is symbolic gets IMAGE_SIDE pixels. The same seed, the same feeds.
    """
    generator = np.random.default_rng(seed)
    known = inputs(model)
    made: dict[str, Array] = {}
    for given in known.values():
        if given.primary:
            sizes = _primary_sizes(given, Extent(batch, length))
            if math.prod(sizes) > MOST_DRAWN:
                raise InvalidTarget(f"{given}: a batch of {batch} x {length} has no room in any memory")
            whole, rows = given.dtype.kind in "iu", given.rows or DEFAULT_ROWS
            drawn: Array = generator.integers(0, rows, sizes) if whole else generator.standard_normal(sizes)
            made[given.name] = drawn.astype(given.dtype)
    extent = extent_of(known, made) if made else Extent(batch, length)
    return {n: made[n] if n in made else _made(known[n], extent) for n in known}


def _primary_sizes(given: Input, extent: Extent) -> tuple[int, ...]:
    if len(given.shape) == 4 and given.dtype.kind in "fV":  # an image
        side = max(IMAGE_SIDE // given.stride, 1) * given.stride
        return given.sizes(extent, other=side)
    return given.sizes(Extent(extent.batch, samples(extent.length, given.windows)))


def _made(given: Input, extent: Extent) -> Array:
    assert given.role.make is not None
    return given.role.make(given, extent)


def extent_of(known: Mapping[str, Input], batch: Mapping[str, Array]) -> Extent:
    """Batch and length of the first primary input given, of token ids before features; every named axis as given."""
    given = [i for n, i in known.items() if i.primary and n in batch and batch[n].ndim]
    if not given:
        raise BadData(f"a batch needs {', '.join(str(i) for i in known.values() if i.primary) or 'an input'}")
    named = {d: s for i in given for d, s in zip(i.shape, batch[i.name].shape, strict=True) if isinstance(d, str)}
    shape = batch[min(given, key=lambda i: i.dtype.kind not in "iu").name].shape
    return Extent(shape[0], shape[1] if len(shape) > 1 else 1, named)


def fill(known: Mapping[str, Input], batch: Mapping[str, Array], where: str = "batch") -> dict[str, Array]:
    """The batch, checked, with the auxiliary inputs that it lacks. Raises BadData (see ``check``)."""
    batch = arrays_of(batch, where)
    check(known, batch, where)
    extent = extent_of(known, batch)
    return {n: batch[n] if n in batch else _made(known[n], extent) for n in known}


def check(known: Mapping[str, Input], batch: Mapping[str, Array], where: str = "batch") -> None:
    """Names, types, ranks, fixed axes, axes of one name, ids inside the table: BadData with both sides shown."""
    stray = sorted(set(batch) - set(known))
    if stray:
        raise BadData(f"{where}: the graph has no input {stray[0]!r}; it has {', '.join(map(str, known.values()))}")
    missing = [str(i) for i in known.values() if i.primary and i.name not in batch]
    if missing:
        raise BadData(f"{where}: {', '.join(missing)} is missing; the batch has {', '.join(batch) or 'nothing'}")
    bound: dict[str, tuple[int, str]] = {}
    for name, given in known.items():
        if name in batch:
            _check_input(given, np.asarray(batch[name]), where, bound)


def _check_input(given: Input, array: Array, where: str, bound: dict[str, tuple[int, str]]) -> None:
    shown = f"{where}: the graph wants {given}, the batch has {array.dtype}{_shown(array.shape)}"
    if array.dtype != given.dtype or array.ndim != len(given.shape):
        raise BadData(shown)
    for dim, size in zip(given.shape, array.shape, strict=True):
        if isinstance(dim, int) and dim != size:
            raise BadData(shown)
        if isinstance(dim, str) and bound.setdefault(dim, (size, given.name))[0] != size:
            raise BadData(f"{shown}, and {bound[dim][1]} has {dim} = {bound[dim][0]}")
    if given.primary and not array.size:
        raise BadData(f"{shown}: it is empty")
    if given.rows is not None and array.size and not 0 <= int(array.min()) <= int(array.max()) < given.rows:
        raise BadData(
            f"{where}: {given.name} holds ids from {array.min()} to {array.max()}, the graph's table has {given.rows} "
            "rows: another model's tokenizer?"
        )


def _shown(shape: tuple[Dim, ...]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
