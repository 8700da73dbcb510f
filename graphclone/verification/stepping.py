"""A cache is right where stepping with it gives what one pass over all tokens gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from graphclone import feeds as tiny
from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.verification.oracle import tolerance
from graphclone.verification.report import Check
from graphclone.verification.sessions import Session

Array = np.ndarray[Any, Any]

NAME = "steps with its KV cache"
BATCH, LENGTH, FIRST = 2, 6, 3  # tokens at once to begin with, then one at a time
WORDS = re.compile(r"[a-z]+|\d+")
SYNONYMS = {**dict.fromkeys(("past", "present", "cache", "kv", "input", "output"), ""), "k": "key", "v": "value"}
KNOWN = {"tokens", "cache", "mask", "positions", "sequence length", "total length", "kept logits", "token types"}


def examine(clone: Model, session: Session) -> list[Check]:
    """Prefill, then a token at a time; nothing for a graph without caches."""
    known = tiny.inputs(clone)
    caches = [name for name, given in known.items() if given.role.name == "cache"]
    if not caches:
        return []
    pairs = _pairs(caches, [t.name for t in clone.graph.outputs])
    whole_feed = tiny.tiny_feeds(clone, BATCH, LENGTH)
    if reason := _not_applicable(known, caches, pairs, whole_feed):
        return [Check.skipped(NAME, reason)]
    try:
        whole = session.run(whole_feed)
        worst, where = max(_steps(clone, session, known, pairs, whole_feed, whole))
    except UnsupportedGraph as problem:
        return [Check.of(NAME, [str(problem)], "")]
    said = f"{FIRST} tokens, then {LENGTH - FIRST} one by one: largest relative difference from one pass, in {where}"
    return [Check.measured(NAME, worst, tolerance(clone), said)]


def _pairs(caches: list[str], outputs: list[str]) -> dict[str, str]:
    """Cache input -> the output that takes its place in the next step, by their names without past and present."""
    ends = {_stem(name): name for name in outputs}
    return {name: ends[_stem(name)] for name in caches if _stem(name) in ends}


def _stem(name: str) -> tuple[str, ...]:
    words = (SYNONYMS.get(word, word) for word in WORDS.findall(name.lower().replace("key_values", "")))
    return tuple(word for word in words if word)


def _not_applicable(
    known: Mapping[str, tiny.Input], caches: list[str], pairs: Mapping[str, str], fed: Mapping[str, Array]
) -> str | None:
    """Why it is not told how this graph steps, or None."""
    if odd := [str(given) for given in known.values() if given.role.name not in KNOWN]:
        return f"it is not told what {odd[0]} is from step to step"
    if lone := [name for name in caches if name not in pairs]:
        return f"no output follows the cache {lone[0]}"
    if full := [name for name in caches if fed[name].size]:
        return f"the cache {full[0]} {list(fed[full[0]].shape)} is never empty"
    if sum(given.role.name == "tokens" for given in known.values()) != 1:
        return "it takes more than one sequence of tokens"
    masks = [name for name, given in known.items() if given.role.name == "mask" and fed[name].ndim != 2]
    return f"the mask {masks[0]} is no row of a sequence" if masks else None


def _steps(
    clone: Model,
    session: Session,
    known: Mapping[str, tiny.Input],
    pairs: Mapping[str, str],
    fed: Mapping[str, Array],
    whole: Mapping[str, Array],
) -> Iterator[tuple[float, str]]:
    """(largest |difference| / largest |expected|, output) of each step."""
    by_token = [n for n, a in whole.items() if n not in pairs.values() and a.ndim > 1 and a.shape[1] == LENGTH]
    if not by_token:
        raise UnsupportedGraph("no output has a row for every token")
    past = {name: fed[name] for name in pairs}
    start = 0
    for end in range(FIRST, LENGTH + 1):
        step = tiny.tiny_feeds(clone, BATCH, end - start)
        for name, given in known.items():
            step[name] = _at(given, step[name], fed[name], start, end)
        made = session.run({**step, **past})
        for name in by_token:
            wanted, found = whole[name][:, start:end].astype(np.float64), made[name].astype(np.float64)
            alike = found.shape == wanted.shape and bool(np.isfinite(found).all())
            scale = max(float(np.abs(whole[name].astype(np.float64)).max(initial=0.0)), 1e-12)
            yield (float(np.abs(wanted - found).max(initial=0.0)) / scale if alike else float("inf")), name
        past = {name: made[present] for name, present in pairs.items()}
        start = end


def _at(given: tiny.Input, fresh: Array, whole: Array, start: int, end: int) -> Array:
    """What an input is fed for the tokens from ``start`` to ``end``, those before being in the cache."""
    by_role: Mapping[str, Callable[[], Array]] = {
        "tokens": lambda: whole[:, start:end],
        "token types": lambda: whole[:, start:end],
        "positions": lambda: whole[..., start:end],
        "mask": lambda: np.ones((fresh.shape[0], end), fresh.dtype),
        "sequence length": lambda: np.full_like(fresh, end - 1),
        "total length": lambda: np.full_like(fresh, end),
    }
    return by_role.get(given.role.name, lambda: fresh)()
