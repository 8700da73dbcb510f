"""Plan: what is kept and what is dropped. The waist of graphclone: everything left of it reads, right of it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from graphclone.errors import BadData, InvalidTarget

FORMAT = 1
LISTS = ("keep", "drop_blocks", "drop_attention", "drop_feed_forward", "repeat_blocks")  # names -> indices
KINDS = {"parent": str, "method": str, "importance": str, "format": int, "target": dict}  # the others
LARGEST = 1 << 62  # indices are 64 bits wide
WORDS = {str: "text", int: "a whole number", dict: "names with sizes"}
PASSES = (  # corrections of the weights, in surgery/corrections, in the order in which they are made
    "none",
    "pca",
    "paper",
    "norm-gain",
    "least-squares",
    "mean-bias",
    "depth-patch",
    "read-in",
    "query-scale",
)
BEST = "best"  # what the planner settles on by what was measured
IDLE = "found nothing to correct"  # what the note of a pass without work is called
EXCLUSIVE = (  # both would correct the same, or the one speaks of neurons that the other does not keep
    {"paper", "norm-gain"},
    {"least-squares", "mean-bias"},
    {"pca", "paper"},
    {"pca", "norm-gain"},
    {"pca", "read-in"},
    {"pca", "depth-patch"},
)


def passes_of(method: str) -> tuple[str, ...]:
    """The passes that a method names, joined by ``+``, in the order in which they are made. Raises InvalidTarget for a
    name that is none, or for two that exclude each other."""
    named = tuple(method.split("+"))
    unknown = [name for name in named if name not in PASSES]
    if unknown or len(set(named)) != len(named):
        raise InvalidTarget(
            f"method {method!r} is not one of {BEST}, {', '.join(PASSES)}, nor several of them joined by +"
        )
    if ("none" in named and len(named) > 1) or any(set(named) >= two for two in EXCLUSIVE):
        raise InvalidTarget(f"method {method!r}: {' and '.join(named)} exclude each other")
    return tuple(name for name in PASSES if name in named)


def with_best(method: str, best: str) -> str:
    """A method that names ``best`` beside other passes (``best+read-in``), spelled out: what the others exclude of it
    is left out.

    >>> with_best("best+read-in", "norm-gain+least-squares"), with_best("pca+best", "norm-gain+least-squares")
    ('norm-gain+least-squares+read-in', 'pca+least-squares')
    """
    named = method.split("+")
    if BEST not in named:
        return method
    others = [name for name in named if name != BEST]
    kept = [
        name
        for name in best.split("+")
        if name not in others and not any(two == {name, other} for two in EXCLUSIVE for other in others)
    ]
    joined = {*kept, *others}
    unknown = [name for name in others if name not in PASSES]
    return "+".join([*(name for name in PASSES if name in joined), *unknown]) or "none"


@dataclass(frozen=True)
class Plan:
    """What a clone keeps of a parent; ``to_json`` and ``read`` are its file.

    parent: the sha256 of the model that it was made for. keep: group name -> neurons kept, counted from 0, ascending (a
    permutation is allowed: order is the clone's order). Groups that are not named are kept whole. drop_blocks: stack
    name -> block indices removed; drop_attention and drop_feed_forward: the same for one branch of blocks that stay.
    repeat_blocks: blocks that are put in once more behind themselves, each time they are named.
    ``method`` names the corrections of the weights, joined by ``+``; ``target`` records what was asked for.
    Raises InvalidTarget for an unknown method or format, and for a group that keeps nothing, repeats or negatives.
    """

    parent: str  # sha256
    keep: Mapping[str, tuple[int, ...]]
    drop_blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    method: str = "paper"
    importance: str = "paper"
    target: Mapping[str, int | str] = field(default_factory=dict)
    format: int = FORMAT
    drop_attention: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    drop_feed_forward: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    repeat_blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        passes_of(self.method)
        if self.format != FORMAT:
            raise InvalidTarget(f"plan format {self.format}, this graphclone reads {FORMAT}")
        for name, kept in self.keep.items():
            if not kept or len(set(kept)) != len(kept) or min(kept) < 0:
                raise InvalidTarget(f"plan: group {name} keeps {len(kept)} neurons with repeats, negatives or none")

    def to_json(self) -> str:
        """One line, keys sorted: the same plan, the same bytes."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "plan") -> Plan:
        """A plan from its JSON; ``where`` names it in errors.

        Raises BadData for what is no plan, unknown keys included, InvalidTarget as making one does.
        """
        try:
            held = json.loads(text)
        except json.JSONDecodeError as reason:
            raise BadData(f"{where}: not JSON ({reason})") from None
        known = {f.name for f in fields(cls)}
        if not isinstance(held, dict) or not {"parent", "keep"} <= held.keys() or held.keys() - known:
            raise BadData(f"{where}: not a plan: expected the keys {', '.join(sorted(known))}")
        for name, kind in KINDS.items():
            if name in held and type(held[name]) is not kind:  # true is no number
                raise BadData(f"{where}: not a plan: {name} is {brief(held[name])}, expected {WORDS[kind]}")
        for name, size in held.get("target", {}).items():
            if type(size) not in (int, str):
                raise BadData(f"{where}: not a plan: target {name} is {brief(size)}, expected a number or text")
        lists = {name: _tuples(held.get(name, {}), f"{where}: not a plan: {name}") for name in LISTS}
        return cls(**{**held, **lists})

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan from a file ("-": standard input). Raises as ``from_json``, BadData where it cannot be read."""
        if str(path) == "-":
            return cls.from_json(_standard_input(), "standard input")
        try:
            return cls.from_json(Path(path).read_text(), str(path))
        except FileNotFoundError:
            raise BadData(f"{path}: there is no such file") from None
        except (OSError, UnicodeDecodeError) as reason:
            raise BadData(f"{path}: cannot be read ({getattr(reason, 'strerror', None) or reason})") from None


@cache
def _standard_input() -> str:
    return sys.stdin.read()  # once: it cannot be read again


def _tuples(held: Any, what: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(held, dict):
        raise BadData(f"{what} is {brief(held)}, expected names with lists of indices")
    for name, indices in held.items():
        if not isinstance(indices, list) or not all(type(i) is int and abs(i) < LARGEST for i in indices):
            raise BadData(f"{what} of {name} is no list of whole numbers")
    return {name: tuple(indices) for name, indices in held.items()}
