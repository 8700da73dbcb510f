"""Pairs the residual streams of clone and teacher, block by block and neuron by neuron.

A clone made by selection needs no projection to be held against its parent: neuron i of its residual stream is the
parent's neuron K[i], and block l was the parent's block map(l), which a deeper clone repeats; both are in the plan that
the clone carries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Stack
from graphclone.errors import GraphCloneError, InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan

MUCH_DEPTH = 0.3  # share of blocks dropped from which hidden states are worth imitating (as Minitron found)


@dataclass(frozen=True)
class Pair:
    """The residual stream after a block: its value in the clone and in the teacher, and the teacher's kept neurons."""

    ours: str
    theirs: str
    kept: tuple[int, ...] | None


@dataclass(frozen=True)
class Kinship:
    """What the clone's plan says of its parent. dropped: share of the parent's blocks that are gone."""

    pairs: tuple[Pair, ...]
    dropped: float
    kept: tuple[int, ...] | None


def kinship(clone: Model, teacher: Model) -> Kinship:
    """Match clone and teacher by the plan that the clone carries. Raises InvalidTarget where they cannot be matched."""
    text = clone.metadata.get("graphclone.plan")
    if text is None:
        raise InvalidTarget("the clone carries no plan, so its neurons cannot be matched to a teacher's")
    plan = Plan.from_json(text, "the clone's plan")
    if plan.parent != teacher.sha256:
        raise InvalidTarget(
            f"the teacher (sha256 {teacher.sha256[:12]}...) is not the clone's parent ({plan.parent[:12]}...): their "
            f"hidden states cannot be matched"
        )
    ours, theirs = _anatomy(clone, "clone"), _anatomy(teacher, "teacher")
    pairs: list[Pair] = []
    for stack in theirs.stacks:
        pairs += _pairs(next((s for s in ours.stacks if s.name == stack.name), None), stack, plan)
    blocks = sum(len(stack.blocks) for stack in theirs.stacks)
    gone = sum(len(indices) for indices in plan.drop_blocks.values())
    main = theirs.stacks[-1]
    return Kinship(tuple(pairs), gone / max(1, blocks), plan.keep.get(main.residual))


def _anatomy(model: Model, who: str) -> Anatomy:
    try:
        return inspect(model)
    except GraphCloneError as reason:
        raise InvalidTarget(f"the {who}'s blocks are not found, so hidden states cannot be matched: {reason}") from None


def _pairs(ours: Stack | None, theirs: Stack, plan: Plan) -> list[Pair]:
    gone = set(plan.drop_blocks.get(theirs.name, ()))
    again = Counter(plan.repeat_blocks.get(theirs.name, ()))
    sources = [block for block in theirs.blocks if block.index not in gone for _ in range(1 + again[block.index])]
    if ours is None or len(ours.blocks) != len(sources):
        found = 0 if ours is None else len(ours.blocks)
        raise InvalidTarget(
            f"{theirs.name}: the clone shows {found} blocks, its plan keeps {len(sources)}: hidden states do not match"
        )
    kept = plan.keep.get(theirs.residual)
    return [Pair(a.exit, b.exit, kept) for a, b in zip(ours.blocks, sources, strict=True)]


def with_outputs(model: Model, values: Sequence[str]) -> Model:
    """A copy that also gives these values; the weights are the model's own."""
    made = model.copy()
    tensors, present = made.graph.tensors(), {tensor.name for tensor in made.graph.outputs}
    kind = next((t.dtype for t in made.graph.outputs if isinstance(t, gs.Variable) and t.dtype is not None), None)
    for name in dict.fromkeys(values):
        if name not in present:
            tensor = tensors[name]
            tensor.dtype = tensor.dtype if tensor.dtype is not None else kind
            made.graph.outputs.append(tensor)
    return made
