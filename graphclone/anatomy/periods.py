"""Finds which segments of a residual stream repeat, and so are the blocks of a stack.

A stack is the longest run of segments that repeats with a period, and one period is a block. A block may lack some of
its segments, where an attention or a feed-forward was left out: what stands beside the run and is made of the same
segments, in the same order, belongs to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group, Grouping
from graphclone.anatomy.segments import PRODUCTS, Run, Segment
from graphclone.anatomy.trace import Trace

LONGEST_PATTERN = 8  # segments of a block: two attentions and a feed-forward, each with norms of its own


def longest_run(found: Grouping, residual: Group, segments: list[Segment]) -> Run | None:
    """The blocks of a stream, or None where nothing with attention repeats. Layers that differ in what rotates their
    queries and keys (none does in every fourth) are blocks each, where they are whole otherwise."""
    attends = [is_attention(found.trace, s.nodes) for s in segments]
    weighty = [a or _multiplies(s) for a, s in zip(attends, segments, strict=True)]
    strict, bare = (
        _longest_run(shapes, attends, weighty)
        for shapes in ([s.structure for s in segments], [s.skeleton for s in segments])
    )

    def heavy(blocks: Sequence[range]) -> int:
        return sum(weighty[k] for block in blocks for k in block)

    def attending(blocks: Sequence[range]) -> int:
        return sum(any(attends[k] for k in block) for block in blocks)

    blocks = bare if attending(bare) > attending(strict) and heavy(bare) >= heavy(strict) else strict
    return Run(residual, tuple(tuple(segments[k] for k in block) for block in blocks)) if blocks else None


def _longest_run(shapes: Sequence[int], attends: Sequence[bool], weighty: Sequence[bool]) -> list[range]:
    best = _best_period(shapes)
    regular: list[range] = []
    if best is not None:
        start, period, length = best
        # begin with attention where the run leaves room to choose
        start += next((shift for shift in range(length % period + 1) if attends[start + shift]), 0)
        regular = [range(start + k * period, start + (k + 1) * period) for k in range(length // period)]
        if not any(attends[k] for k in regular[0]):
            regular = []
    blocks = _uneven(shapes, weighty, regular) if regular else []
    return _best_pattern(shapes, attends, weighty, blocks)


def _best_period(shapes: Sequence[int]) -> tuple[int, int, int] | None:
    """(start, period, whole length) of the run that covers most in whole periods; the shorter period wins a tie."""
    best: tuple[int, int, int] | None = None
    for period in range(1, len(shapes) // 2 + 1):
        start = 0
        while start + period < len(shapes):
            length = period
            while start + length < len(shapes) and shapes[start + length] == shapes[start + length - period]:
                length += 1
            if length >= 2 * period and (best is None or length // period * period > best[2] // best[1] * best[1]):
                best = (start, period, length)
            start += max(1, length - period + 1)
    return best


def _uneven(shapes: Sequence[int], weighty: Sequence[bool], regular: Sequence[range]) -> list[range]:
    """The blocks of a regular run, and beside it blocks of the same segments of which some are missing.

    >>> _uneven([1, 2, 1, 2, 2, 1, 2, 9], [True] * 8, [range(0, 2), range(2, 4)])
    [range(0, 2), range(2, 4), range(4, 5), range(5, 7)]
    """
    pattern = [shapes[k] for k in regular[0]]

    def reach(place: int, step: int) -> int:
        """As far as the pattern's segments go; a norm that was left without its sum may stand between two."""
        while 0 <= place < len(shapes):
            beyond = place + step
            between = not weighty[place] and 0 <= beyond < len(shapes) and shapes[beyond] in pattern
            if shapes[place] not in pattern and not between:
                break
            place += step
        return place

    first, last = reach(regular[0].start - 1, -1) + 1, reach(regular[-1].stop, 1)
    before = _parsed(shapes, pattern, range(first, regular[0].start))
    after = _parsed(shapes, pattern, range(regular[-1].stop, last))

    def worth(block: range) -> bool:
        return any(weighty[k] for k in block)

    while before and not worth(before[0]):  # a norm of the embeddings looks like one of a block's
        before.pop(0)
    while after and not worth(after[-1]):
        after.pop()
    return [*before, *regular, *after]


def _parsed(shapes: Sequence[int], pattern: Sequence[int], places: range) -> list[range]:
    """Consecutive segments as blocks, each a part of the pattern in its order, as long as can be."""
    starts: list[int] = []
    reached = len(pattern)
    for k in places:
        if shapes[k] not in pattern and starts:
            continue
        following = next((j for j in range(reached + 1, len(pattern)) if pattern[j] == shapes[k]), None)
        if following is None:
            starts.append(k)
            following = pattern.index(shapes[k]) if shapes[k] in pattern else -1
        reached = following
    return [range(a, b) for a, b in pairwise([*starts, places.stop])]


def _best_pattern(
    shapes: Sequence[int], attends: Sequence[bool], weighty: Sequence[bool], regular: list[range]
) -> list[range]:
    """Blocks of a stack whose neighbours may all differ: the pattern of segments, each in two blocks at least, that
    covers most products in the fewest blocks, if that beats the regular run."""

    def worth(blocks: Sequence[range]) -> tuple[int, int, int]:
        return sum(weighty[k] for block in blocks for k in block), -len(blocks), sum(map(len, blocks))

    best: list[range] = []
    for start in (k for k, attention in enumerate(attends) if attention):
        for stop in range(start + 2, min(start + LONGEST_PATTERN, len(shapes)) + 1):
            heavy = [shapes[k] for k in range(start, stop) if weighty[k]]
            if len(heavy) < 2 or len(set(heavy)) < len(heavy):  # norms may repeat
                continue
            blocks = _uneven(shapes, weighty, [range(start, stop)])
            often = Counter(shape for block in blocks for shape in {shapes[k] for k in block} & set(shapes[start:stop]))
            if min(often.values()) > 1 and worth(blocks) > worth(best):
                best = blocks
    return best if worth(best)[0] > worth(regular)[0] else regular


def single_block(found: Grouping, residual: Group, segments: list[Segment]) -> Run | None:
    """A model of one block repeats nothing: it is attention and what follows up to the last feed-forward."""
    attends = [k for k, s in enumerate(segments) if is_attention(found.trace, s.nodes)]
    if len(attends) != 1:
        return None
    first = attends[0]
    last = max((k for k, s in enumerate(segments) if any(n.op in ("MatMul", "Gemm") for n in s.nodes)), default=-1)
    if last < first:
        return None
    if {first + 1, last + 1} <= set(range(len(segments))):
        last += _is_norm(segments[first + 1]) and _is_norm(segments[last + 1])  # post-norm: the last one is the block's
    return Run(residual, (tuple(segments[first : last + 1]),))


def _is_norm(segment: Segment) -> bool:
    ops = {n.op for n in segment.nodes}
    return any(op.endswith("Normalization") for op in ops) and not ops & {"MatMul", "Gemm"}


def is_attention(trace: Trace, segment: Sequence[gs.Node]) -> bool:
    """Holds a softmax between two products of activations, or an operator that fuses them."""
    nodes = {id(n) for n in segment}
    kinds = {n.kind for n in trace.notes if id(n.node) in nodes}
    return "attention" in kinds or ("softmax" in kinds and "product" in kinds)


def _multiplies(segment: Segment) -> bool:
    return any(n.op in PRODUCTS for n in segment.nodes)
