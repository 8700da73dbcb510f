"""Target: what a user asks for, read from numbers and text. The planner finds what meets it.

A size is a number (192, "192"), a share of the parent's ("50%"), or, for heads and feed-forward, one a block:
"1024,1024,768" from the first block on, "0-9:1024,10-29:50%" by the block's index (others stay). Blocks are lists:
"0-3,8,11".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction

from graphclone.anatomy.parts import Anatomy, Block, Stack
from graphclone.errors import InvalidTarget

Asked = int | Fraction  # a number of neurons, or a share of the parent's
Size = int | str | None
Indices = str | int | Sequence[int] | None
PER_BLOCK = ("heads", "kv_heads", "head_dim", "ffn")  # sizes that every block has its own of
BLOCKS = ("keep_blocks", "drop_attention", "drop_ffn", "deeper")
MOST_BLOCKS = 100_000  # what is longer is no model, and its list of blocks would fill the memory
INSTEAD = "or a budget, --params, --size or --latency; or --vocab"  # of a size
DIGITS = 18  # of a number that can be one
_SHARE = re.compile(r"-?(\d+\.?\d*|\.\d+)%")  # without an exponent: 1e999999999% is a number that nobody can write out


@dataclass(frozen=True)
class EachBlock:
    """A size for some blocks of a stack. ``sizes``: by index; ``count``: of blocks in a plain list, or None."""

    sizes: Mapping[int, Asked]
    count: int | None = None

    def of(self, name: str, index: int, blocks: int) -> Asked | None:
        """The size of one block of so many, None where it stays. Raises InvalidTarget for a list of another length."""
        beyond = [k for k in self.sizes if k >= blocks]
        if beyond or self.count not in (None, blocks):
            given = f"{self.count} sizes" if self.count is not None else f"block {beyond[0]}"
            raise InvalidTarget(f"{name}: {given} for a stack of {blocks} blocks, numbered from 0")
        return self.sizes.get(index)


@dataclass(frozen=True)
class Target:
    """The clone's shape: absolute (192, or "192"), a share of the parent's ("50%"), or None to leave it.

    A share is rounded down to the nearest size that can be reached. hidden and layers hold for every stack, heads,
    kv_heads, head_dim and ffn for every block, or block by block. ``heads`` alone keeps the queries per KV head as they
    are. ``keep_blocks`` names the blocks instead of their number; ``drop_attention`` and ``drop_ffn`` name blocks that
    stay without that part. ``deeper``: more layers than the parent has are reached by repeating the middle ones.

    Read when a plan is made, which raises InvalidTarget for what is no size or list of blocks.
    """

    hidden: Size = None
    heads: Size = None
    kv_heads: Size = None
    head_dim: Size = None
    ffn: Size = None
    layers: Size = None
    keep_blocks: Indices = None
    drop_attention: Indices = None
    drop_ffn: Indices = None
    deeper: bool = field(default=False, kw_only=True)

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        return not any(self._given(f.name) for f in fields(self))

    @property
    def whole(self) -> Target:
        """This, or the parent's own shape where nothing is asked for, as beside a budget."""
        return Target(layers="100%") if self.empty else self

    def _given(self, name: str) -> bool:
        value = getattr(self, name)
        return value is not None and value is not False  # 0 is given, and refused

    def asked(self) -> dict[str, Asked | EachBlock]:
        """The sizes that are asked for, read. Raises InvalidTarget for what is no size, and where nothing is asked."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if self._given(f.name)}
        if not given:
            sizes = ", ".join(f"--{f.name.replace('_', '-')}" for f in fields(self) if f.name != "deeper")
            raise InvalidTarget(f"no target: give at least one of {sizes}; {INSTEAD} (in Python: a field of Target)")
        if "layers" in given and "keep_blocks" in given:
            raise InvalidTarget("layers is a number of blocks, keep_blocks says which: give one of them")
        return {name: _read(name, size) for name, size in given.items() if name not in BLOCKS}

    def blocks(self, name: str) -> tuple[int, ...] | None:
        """The blocks that ``keep_blocks``, ``drop_attention`` or ``drop_ffn`` names, ascending; None where none is.

        >>> Target(keep_blocks="0-3,8,11").blocks("keep_blocks")
        (0, 1, 2, 3, 8, 11)
        """
        given = getattr(self, name)
        if given is None:
            return None
        found = indices(name, str(given)) if isinstance(given, str | int) else tuple(sorted(set(given)))
        if not found or found[0] < 0:
            raise InvalidTarget(f"{name} {given!r}: name at least one block, numbered from 0")
        return found


def of_block(stack: Stack, block: Block, asked: Mapping[str, Asked | EachBlock]) -> dict[str, Asked]:
    """The sizes of one block; what is asked of other blocks alone is left out."""
    found = {}
    for name, size in asked.items():
        here = size.of(name, block.index, len(stack.blocks)) if isinstance(size, EachBlock) else size
        if here is not None:
            found[name] = here
    return found


def answerable(anatomy: Anatomy, target: Target) -> dict[str, Asked | EachBlock]:
    """The sizes that are asked for. Raises InvalidTarget for those that cutting every block would not give."""
    asked = target.asked()
    _refuse_outside(anatomy, asked)
    _refuse_idle_layers(anatomy, asked)
    return asked


def _refuse_outside(anatomy: Anatomy, asked: Mapping[str, Asked | EachBlock]) -> None:
    """Raises InvalidTarget for a size that a part in no block would not get. Sizes of named blocks are theirs alone."""
    blocks = [block for stack in anatomy.stacks for block in stack.blocks]
    held = {
        "heads": ("attention", {a.heads for b in blocks for a in b.attention}),
        "kv_heads": ("attention", {a.kv_heads for b in blocks for a in b.attention}),
        "head_dim": ("attention", {a.head_dim for b in blocks for a in b.attention}),
        "ffn": ("ffn", {f.ffn for b in blocks for f in b.feed_forward} | {p.size for p in anatomy.outside if p.size}),
        "layers": ("", {len(stack.blocks) for stack in anatomy.stacks}),
    }
    for name, (kind, sizes) in held.items():
        size = asked.get(name, 1)
        whole = isinstance(size, EachBlock) or (isinstance(size, Fraction) and size == 1) or sizes == {size}
        for part in anatomy.outside if name in asked and not whole else ():
            if part.kind.startswith(kind):
                named = "keep_blocks drops" if name == "layers" else "sizes of named blocks (0-5:50%) cut"
                raise InvalidTarget(
                    f"{name}: {part} is on the residual stream but in none of the blocks that were found, so it would "
                    f"stay as it is; {named} the found ones alone"
                )


def _refuse_idle_layers(anatomy: Anatomy, asked: Mapping[str, Asked | EachBlock]) -> None:
    """Raises InvalidTarget for as many layers as there are blocks, where a block may be what others call several."""
    for stack in anatomy.stacks:
        if stack.layers_each > 1 and {len(other.blocks) for other in anatomy.stacks} == {asked.get("layers")}:
            raise InvalidTarget(
                f"layers {len(stack.blocks)}: layers counts blocks, {stack.name} has as many, and each holds "
                f"{stack.layers_each} attentions and feed-forwards: nothing would be dropped"
            )


def kept_blocks(stack: Stack, target: Target) -> set[int] | None:
    """The blocks that ``keep_blocks`` names. Raises InvalidTarget for one that is not there."""
    named = target.blocks("keep_blocks")
    if named is not None and named[-1] >= len(stack.blocks):
        raise InvalidTarget(f"keep_blocks {named[-1]}: {stack.name} has {len(stack.blocks)} blocks, numbered from 0")
    return None if named is None else set(named)


def without_part(anatomy: Anatomy, target: Target, part: str) -> dict[str, tuple[int, ...]]:
    """Stack -> blocks that stay without a part. Raises InvalidTarget for one that is not there, or is dropped whole."""
    named = target.blocks(part)
    if named is None:
        return {}
    kept = target.blocks("keep_blocks")
    for stack in anatomy.stacks:
        gone = [k for k in named if k >= len(stack.blocks) or (kept is not None and k not in kept)]
        if gone:
            raise InvalidTarget(
                f"{part} {gone[0]}: {stack.name} has {len(stack.blocks)} blocks, numbered from 0, and keeps no such one"
            )
    return {stack.name: named for stack in anatomy.stacks}


def middle(blocks: int, layers: int) -> tuple[int, ...]:
    """Which blocks are repeated, each once or oftener, for more layers than there are: the middle ones first.

    >>> middle(6, 8), middle(2, 5)
    ((2, 3), (0, 0, 1))
    """
    rounds, rest = divmod(layers - blocks, blocks)
    first = (blocks - rest) // 2
    return tuple(k for k in range(blocks) for _ in range(rounds + (first <= k < first + rest)))


def indices(name: str, text: str) -> tuple[int, ...]:
    """Numbers and ranges, ends included, ascending. Raises InvalidTarget."""
    found: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isdecimal() for number in numbers):
            raise InvalidTarget(f"{name} {text!r} is no list of blocks such as 0-3,8,11")
        if max(map(len, numbers)) > DIGITS or int(numbers[-1]) > MOST_BLOCKS:
            raise InvalidTarget(f"{name} {piece.strip():.40}: no model has so many blocks")
        if int(numbers[-1]) < int(first):
            raise InvalidTarget(f"{name} {text!r} is no list of blocks such as 0-3,8,11")
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def _read(name: str, size: int | str) -> Asked | EachBlock:
    text = str(size).strip()
    if "," not in text and ":" not in text:
        number = _number(name, text)
        if name == "layers" and number > MOST_BLOCKS:
            raise InvalidTarget(f"layers {text:.40}: no model has so many blocks")
        return number
    if name not in PER_BLOCK:
        raise InvalidTarget(f"{name} {size!r}: one number or share for all; {', '.join(PER_BLOCK)} may differ by block")
    if ":" not in text:
        sizes = [_number(name, piece.strip()) for piece in text.split(",")]
        return EachBlock(dict(enumerate(sizes)), len(sizes))
    found: dict[int, Asked] = {}
    for piece in text.split(","):
        blocks, colon, wanted = piece.partition(":")
        if not colon:
            raise InvalidTarget(
                f"{name} {size!r}: either a size a block (1024,768), or blocks and their size (0-9:1024)"
            )
        found |= dict.fromkeys(indices(name, blocks), _number(name, wanted.strip()))
    return EachBlock(found)


def _number(name: str, text: str) -> Asked:
    try:
        number: Asked = Fraction(text[:-1]) / 100 if _SHARE.fullmatch(text) else int(text)
    except ValueError:
        raise InvalidTarget(f"{name} {text!r} is neither a number nor a percentage such as 50%") from None
    if number <= 0 or (isinstance(number, Fraction) and number > 1):
        raise InvalidTarget(f"{name} {text}: a clone has at least 1 and at most what its parent has")
    return number
