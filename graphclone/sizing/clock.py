"""How long one run of a clone takes, in ONNX Runtime on the provider that is asked for; nothing is written for it.

A clone that fits is timed as it is. Of a larger one, some blocks are: its ends with one block of each shape, and, by
turns with that, as many more of a shape as fit, whose difference is what a block takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy, Block, Stack
from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.recipes import held
from graphclone.statistics import positions
from graphclone.statistics.runtime import PROVIDERS, provider
from graphclone.surgery.operate import clone
from graphclone.verification.memory import available
from graphclone.verification.sessions import latencies, latency

Array = np.ndarray[Any, Any]
WHOLE = 1 << 30  # bytes of weights up to which a clone is timed as it is
COPIES = 2  # of its weights, that ONNX Runtime holds
MORE = 3  # blocks of a shape, at least, by which its time is told
_SIZES = re.compile(r"(\d+)x(\d+)")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Clock:
    """A run of ``batch`` sequences of ``length`` (axes that are fixed stay so); provider: auto, cpu or cuda.

    whole: bytes of weights up to which a clone is run as it is.
    """

    batch: int = 1
    length: int = 128
    provider: str = "auto"
    threads: int | None = None
    whole: int = field(default=WHOLE, kw_only=True)

    @classmethod
    def of(cls, text: str, provider: str = "auto", threads: int | None = None) -> Clock:
        """Read what people write.

        >>> Clock.of("8x128", "cpu")
        Clock(batch=8, length=128, provider='cpu', threads=None, whole=1073741824)

        Raises InvalidTarget.
        """
        found = _SIZES.fullmatch(text.strip())
        if found is None or not int(found[1]) or not int(found[2]):
            raise InvalidTarget(f"timed {text!r}: write the batch and its length as 1x128")
        return cls(int(found[1]), int(found[2]), provider, threads)

    def within(self, model: Model) -> Clock:
        """Of as many tokens as the model has positions, where they are fewer."""
        return replace(self, length=positions.most(model, self.length) or self.length)

    @property
    def shown(self) -> str:
        """In words, for a table."""
        return f"batch {self.batch} x {self.length}, {self.provider}"

    def seconds(self, model: Model) -> float:
        """Of a model as it is. Raises InvalidTarget where ONNX Runtime does not run it on such a batch."""
        with self._refusing(model):
            return latency(model, self._feeds(model), threads=self.threads, gpu=self._gpu)

    def by_turns(self, models: Sequence[Model]) -> Array:
        """Of several, [turn, model]. Raises InvalidTarget as ``seconds`` does."""
        with self._refusing(models[0]):
            return latencies([(m, self._feeds(m)) for m in models], threads=self.threads, gpu=self._gpu)

    def clone(self, model: Model, anatomy: Anatomy, plan: Plan, made: Model | None = None) -> float:
        """Of the clone of a plan; ``made``: that clone, where it is there already. Weights are not corrected for it."""
        rough = replace(plan, method="none")
        made = made or clone(model, anatomy, rough)
        room, taken = min(self.whole, available() or self.whole), _weights(made)
        if taken <= room:
            return self.seconds(made)
        return by_blocks(
            lambda parts: self.by_turns([clone(model, anatomy, part) for part in parts]), anatomy, rough, room / taken
        )

    def parent(self, model: Model, anatomy: Anatomy) -> float:
        """Of what is cut, as ``clone`` takes it: whole, or by its blocks."""
        return self.clone(model, anatomy, Plan(anatomy.fingerprint, {}, method="none"), model)

    def _feeds(self, model: Model) -> dict[str, Array]:
        return feeds.tiny_feeds(model, self.batch, self.length)

    @property
    def _gpu(self) -> int | None:
        return 0 if provider(self.provider) == PROVIDERS["cuda"] else None

    @contextmanager
    def _refusing(self, model: Model) -> Iterator[None]:
        try:
            yield
        except UnsupportedGraph as reason:
            asked = f"{self.batch}x{self.length}"
            said = positions.too_long(model, self.length, f"--timed {self.batch}x")
            raise InvalidTarget(
                f"timed {asked}: {said or f'{reason}; longer than its positions? lower --timed'}"
            ) from None


def _weights(model: Model) -> int:
    constants = (t for t in model.graph.tensors().values() if isinstance(t, gs.Constant))
    return COPIES * sum(held(t).nbytes for t in constants)


def by_blocks(timed: Callable[[Sequence[Plan]], Array], anatomy: Anatomy, plan: Plan, share: float = 0.0) -> float:
    """Of a plan, from plans of few blocks: t(one of each shape) + for each shape, the others times what one adds.

    timed: seconds of several plans by turns, [turn, plan]. share: of the plan's blocks, how many may run at once: the
    more there are, the less what one adds is told from noise, or from weights that a processor's cache still holds.
    """
    kinds: dict[Key, list[tuple[str, int]]] = {}
    counts: Counter[Key] = Counter()
    for stack in anatomy.stacks:
        for block in stack.blocks:
            if block.index not in plan.drop_blocks.get(stack.name, ()):
                key = _shape(stack, block, plan)
                kinds.setdefault(key, []).append((stack.name, block.index))
                counts[key] += 1 + plan.repeat_blocks.get(stack.name, ()).count(block.index)
    first = [places[0] for places in kinds.values()]
    single = _only(anatomy, plan, first)
    ends, total = [], 0.0
    for key, places in kinds.items():
        if counts[key] == 1:
            continue
        more = places[1 : 1 + max(MORE, int(share * counts[key]))]
        if more:
            longer, added = _only(anatomy, plan, [*first, *more]), len(more)
        else:  # one block, put in again and again
            longer, added = replace(single, repeat_blocks={places[0][0]: places[0][1:] * MORE}), MORE
        short, long = timed([single, longer]).T
        ends.append(short)
        total += max(float(np.median(long - short)) / added, 0.0) * (counts[key] - 1)
    return float(np.median(ends or timed([single]))) + total


def _shape(stack: Stack, block: Block, plan: Plan) -> Key:
    """Equal for blocks of a stack that take as long."""
    parts = [
        name
        for part in block.attention
        for name in (*part.head_groups, *(n for n, _ in part.qk_dims), *(n for n, _ in part.v_dims))
    ]
    parts += [part.group for part in block.feed_forward]
    without = (
        block.index in plan.drop_attention.get(stack.name, ()),
        block.index in plan.drop_feed_forward.get(stack.name, ()),
    )
    return (stack.name, *without, *(len(plan.keep[name]) if name in plan.keep else -1 for name in parts))


def _only(anatomy: Anatomy, plan: Plan, places: list[tuple[str, int]]) -> Plan:
    """The plan with these blocks alone, each once."""
    stays = set(places)
    gone: Mapping[str, tuple[int, ...]] = {
        stack.name: tuple(b.index for b in stack.blocks if (stack.name, b.index) not in stays)
        for stack in anatomy.stacks
    }
    kept = {
        name: {s: tuple(i for i in held if (s, i) in stays) for s, held in getattr(plan, name).items()}
        for name in ("drop_attention", "drop_feed_forward")
    }
    return replace(
        plan,
        drop_blocks={name: indices for name, indices in gone.items() if indices},
        repeat_blocks={},
        drop_attention={s: i for s, i in kept["drop_attention"].items() if i},
        drop_feed_forward={s: i for s, i in kept["drop_feed_forward"].items() if i},
    )
