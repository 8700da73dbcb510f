"""What ``inspect`` reports of a parent: stacks, blocks, their parts, and groups of neurons, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from graphclone.anatomy.groups import Grouping

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, order=True)
class AxisRef:
    """One axis of one initializer."""

    tensor: str
    axis: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.axis}]"


@dataclass(frozen=True)
class NeuronGroup:
    """``size`` neurons that stand in the same ``axes`` of initializers and so are cut with the same indices.

    kind: residual, ffn, head, kv_head, group (query heads of one KV head), qk_dim, v_dim, vocabulary, tail (as wide as
    the residual, outside the stacks), other. ``block``: the index of the block that holds it, None for one of the whole
    graph. ``pinned`` says why the group cannot be cut, or is None.
    """

    name: str
    kind: str
    size: int
    axes: tuple[AxisRef, ...]
    block: int | None = None
    pinned: str | None = None


@dataclass(frozen=True)
class Site:
    """A place whose activations say how much neurons matter.

    ``value`` is a tensor of the graph, float, whose axis ``axis`` (negative) has ``width`` positions.
    kind: ``writer`` (what a block adds to the residual stream: output of a projection onto it) or ``inner`` (input of
    such a projection: FFN hidden, attention context) or ``norm`` (what a normalisation over the residual reads).
    ``members[group][i]`` is the neuron of ``group`` at position i of the axis, -1 for none.
    """

    name: str
    kind: str
    value: str
    axis: int
    width: int
    block: int | None
    members: Mapping[str, Ids]


@dataclass(frozen=True)
class Linear:
    """A weight that a MatMul, Gemm or Conv multiplies by: which axes are read and written."""

    node: str
    weight: str
    in_axis: int
    out_axis: int
    reads: tuple[str, ...]  # names of the groups along the input axis
    writes: tuple[str, ...]
    input: str  # the activation it reads
    output: str  # the activation it writes
    scalable: bool = True  # it holds floats, or integers that a constant multiplies before the product


@dataclass(frozen=True)
class Attention:
    """One attention of a block: ``heads`` query heads on ``kv_heads`` heads of keys and values.

    ``head_dim`` is the width of a head's queries and keys, ``v_dim`` that of its values. ``rotary``: queries and keys
    have rotary embedding.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int
    rotary: bool
    q: tuple[str, ...]  # weight names; equal ones mean a packed projection
    k: tuple[str, ...]
    v: tuple[str, ...]
    o: tuple[str, ...]
    head_groups: tuple[str, ...]  # NeuronGroups along the head axis
    qk_dims: tuple[tuple[str, int], ...] = ()  # NeuronGroups along head_dim, and how many of its positions each holds
    v_dims: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward of a block, of ``ffn`` hidden neurons; gated where two projections meet in a product.

    ``up`` and ``down``: names of the weights before and after the hidden neurons; ``group``: of their NeuronGroup.
    """

    ffn: int
    gated: bool
    up: tuple[str, ...]
    down: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Norm:
    """A normalisation, operator or decomposed; gain and bias by name.

    ``input`` is what it normalises. ``site``: name of the Site that measures it, "" where there is none (norms of
    queries and keys). ``epsilon`` is added to the mean of squares. ``gain_at`` and ``bias_at``: the node (its first
    output's name) and the index of its input where they enter.
    """

    kind: str  # LayerNorm or RMSNorm
    placement: str  # pre, post or qk; embedding or final outside the blocks
    gain: str | None
    bias: str | None
    width: int
    input: str = ""
    output: str = ""
    site: str = ""
    epsilon: float = 0.0
    gain_at: tuple[str, int] | None = None
    bias_at: tuple[str, int] | None = None


@dataclass(frozen=True)
class Block:
    """One repeated segment of a stack, counted from 0.

    ``entry`` and ``exit`` are tensors of the residual stream: joining them removes the block. ``nodes``: by the names
    of their first outputs. ``parallel``: attention and feed-forward read the stream side by side.
    """

    index: int
    entry: str
    exit: str
    nodes: tuple[str, ...] = field(repr=False)
    attention: tuple[Attention, ...]
    feed_forward: tuple[FeedForward, ...]
    norms: tuple[Norm, ...]
    parallel: bool = False


@dataclass(frozen=True)
class Stack:
    """Equal blocks along one residual stream of ``hidden`` channels.

    ``norms``: those over the stream that stand before and after the blocks.
    """

    name: str
    hidden: int
    residual: str  # name of the residual NeuronGroup
    blocks: tuple[Block, ...]
    norms: tuple[Norm, ...] = ()

    @property
    def layers_each(self) -> int:
        """How many attentions, and feed-forwards, a block holds: above 1 a block may be several layers."""
        return max((min(len(b.attention), len(b.feed_forward)) for b in self.blocks), default=0)


@dataclass(frozen=True)
class Outside:
    """A part on the residual stream of a stack that is in none of its blocks, so that no target reaches it."""

    kind: str  # attention or ffn
    node: str  # as an error names it
    size: int = 0  # hidden neurons of an ffn

    def __str__(self) -> str:
        return f"the {'attention' if self.kind == 'attention' else 'feed-forward'} at {self.node}"


@dataclass(frozen=True)
class Anatomy:
    """Everything a planner needs to know about a parent; picklable, holds no weights.

    ``parent``: its sha256, or what finds it out when asked, as that reads the whole file.
    ``axes[AxisRef]`` lists the factors of an initializer's axis: pairs (group name, neuron index per position, -1
    where the position belongs to no neuron of the group). A position is kept when every factor keeps its neuron.
    ``stored``: how many trained numbers there are, by the type they are stored in.
    """

    parent: str | Callable[[], str] = field(repr=False)
    stacks: tuple[Stack, ...]
    groups: Mapping[str, NeuronGroup]
    sites: tuple[Site, ...]
    linears: tuple[Linear, ...]
    axes: Mapping[AxisRef, tuple[tuple[str, Ids], ...]] = field(repr=False)
    stored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what reading the file changed
    outside: tuple[Outside, ...] = ()
    found: Grouping | None = field(default=None, repr=False, compare=False)  # the trace, in the process that made it

    @property
    def fingerprint(self) -> str:
        """The parent's sha256."""
        return self.parent if isinstance(self.parent, str) else self.parent()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parent": self.fingerprint, "found": None}

    @property
    def parameters(self) -> int:
        """How many trained numbers there are."""
        return sum(self.stored.values())
