"""The anatomy that was found against the configuration that made the model."""

from __future__ import annotations

from collections.abc import Sequence

from graphclone.anatomy.parts import Anatomy, Block, Stack
from tools.zoo.row import Expected


def mismatches(found: Anatomy, expected: Sequence[Expected]) -> str:
    """What differs, in words; empty where nothing does. Stacks are compared in whatever order they come."""
    if len(found.stacks) != len(expected):
        shown = ", ".join(f"{len(s.blocks)} blocks of {s.hidden}" for s in found.stacks)
        return f"{len(found.stacks)} stacks ({shown}), the configuration has {len(expected)}"
    left = [_describe(stack) for stack in found.stacks]
    missing = []
    for wanted in map(_wanted, expected):
        if wanted in left:
            left.remove(wanted)
        else:
            missing.append(wanted)
    return "; ".join(f"expected {w}, found {f}" for w, f in zip(missing, left, strict=True))


def _wanted(expected: Expected) -> str:
    attention = f"{expected.heads} heads on {expected.kv_heads} x {expected.head_dim}"
    block = f"{' + '.join([attention] * expected.attentions)}, ffn {expected.ffn}"
    return f"{expected.layers} blocks of {expected.hidden} ({block})"


def _describe(stack: Stack) -> str:
    return f"{len(stack.blocks)} blocks of {stack.hidden} ({' / '.join(sorted({_parts(b) for b in stack.blocks}))})"


def _parts(block: Block) -> str:
    attention = " + ".join(
        f"{a.heads} heads on {a.kv_heads} x {a.head_dim if a.head_dim == a.v_dim else (a.head_dim, a.v_dim)}"
        for a in block.attention
    )
    return f"{attention or 'no attention'}, ffn {' + '.join(str(f.ffn) for f in block.feed_forward) or 'none'}"
