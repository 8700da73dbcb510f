"""Describes a stack by the sizes that a target names: hidden, layers, heads, ..."""

from __future__ import annotations

from typing import Any

from graphclone.anatomy.parts import Stack


def shape(stack: Stack) -> dict[str, Any]:
    """The sizes a target names; a list where blocks differ, None where there is no such part."""
    attention = [a for block in stack.blocks for a in block.attention]
    forward = [f for block in stack.blocks for f in block.feed_forward]
    return {
        "hidden": stack.hidden,
        "layers": len(stack.blocks),
        "heads": _one([a.heads for a in attention]),
        "kv_heads": _one([a.kv_heads for a in attention]),
        "head_dim": _one([a.head_dim for a in attention]),
        "ffn": _one([f.ffn for f in forward]),
    }


def _one(sizes: list[int]) -> int | list[int] | None:
    return (sizes[0] if len(set(sizes)) == 1 else sizes) if sizes else None
