"""Types of the block finder: segments of a residual stream, and runs of them that make a stack."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphclone.anatomy.groups import Group

PRODUCTS = ("MatMul", "Gemm", "Einsum", "FusedMatMul", "FusedGemm", "MatMulInteger")


@dataclass(frozen=True)
class Cut:
    """A cut point: the residual value made by node number ``position``, with what else is alive there."""

    position: int
    value: str
    beside: frozenset[str]


@dataclass(frozen=True)
class Segment:
    """The nodes between two cut points. ``skeleton``: of an attention without what rotates it, or the structure."""

    entry: str
    exit: str
    nodes: tuple[gs.Node, ...]
    structure: int
    skeleton: int


@dataclass(frozen=True)
class Run:
    """A stack in the raw: ``blocks[i]`` are the segments of one period."""

    residual: Group
    blocks: tuple[tuple[Segment, ...], ...]
