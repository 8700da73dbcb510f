"""One configuration, as it is for the clone; and a line for each thing in it that could not be brought up to date.

A key is changed only where it says of the parent what the parent's anatomy says. What it says else, and what a
configuration of that kind cannot say of the clone, is left as it was, with a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphclone.side_files.keys import (
    BY_LAYER,
    FILE_NAMES,
    FORCED_TOKENS,
    FROM_LAYER,
    IMPLIED,
    LAYERS,
    PERIODS,
    ROWS,
    STAGES,
    TOKEN_ENDINGS,
    TOKEN_LISTS,
    Implied,
    Row,
)
from graphclone.side_files.sizes import Change, Size

Scope = dict[str, Any]


@dataclass
class Update:
    """changes: one a stack. tokens: the parent's ids that were kept, None for all. model: the clone's file name."""

    changes: Sequence[Change]
    tokens: Sequence[int] | None
    model: str
    warnings: list[str] = field(default_factory=list)

    def scope(self, held: Mapping[str, Any], where: str, inherited: Sequence[Change] | None = None) -> Scope:
        """A configuration, or one inside another; ``where`` names it in warnings."""
        stacks = self._stacks(held, where, inherited or self.changes)
        if not stacks:
            return dict(held)
        made: Scope = {}
        for key, value in held.items():
            path = f"{where}.{key}" if where else key
            if isinstance(value, Mapping):
                made[key] = self.scope(value, path, stacks) if key != "search" else dict(value)
            elif key in ROWS and value is not None:
                made[key] = self._sized(value, ROWS[key], path, stacks)
            else:
                made[key] = self._other(key, value, path, stacks)
        if any(key in ROWS for key in held):
            self._implied(held, made, where, stacks)
        return made

    def _stacks(self, held: Mapping[str, Any], where: str, known: Sequence[Change]) -> Sequence[Change]:
        """The stacks that a configuration is of: those whose sizes it states, where there are several."""
        last = where.rpartition(".")[2]
        if len(known) == 2 and last in ("encoder", "decoder"):
            return [known[last == "decoder"]]
        stated = {ROWS[k].size: v for k, v in held.items() if k in ROWS and isinstance(v, int)}
        both = held.get("is_encoder_decoder") or any(k in ROWS and ROWS[k].of == "decoder" for k in held)
        if not stated or both or (not where and len(known) < 2):
            return known
        stated.pop("vocab", None)  # a table may have more rows than there are tokens
        found = [c for c in known if all(c.before[size] in (value, None) for size, value in stated.items())]
        if not found:
            self._warn(where or "it", "is of no part of this graph: left as it is")
        return found

    def _sized(self, value: Any, row: Row, path: str, stacks: Sequence[Change]) -> Any:
        of = _whose(row, stacks)
        before, after = {c.before[row.size] for c in of}, {c.after[row.size] for c in of}
        stated = tuple(value) if isinstance(value, list) else value
        if before == {None}:
            return value  # the graph has no such part: an encoder alone has no vocabulary of a decoder
        if before != {stated}:
            self._warn(path, f"says {value}, the parent has {_shown(before)}: left as it is")
            return value
        if len(after) > 1 or (isinstance(next(iter(after)), tuple) and not isinstance(value, list)):
            self._warn(path, f"cannot say {_shown(after)}: still the parent's {value}")
            return value
        new = after.pop()
        if isinstance(value, list):
            return list(new) if isinstance(new, tuple) else [new] * int(str(of[0].after["layers"]))
        return new

    def _other(self, key: str, value: Any, path: str, stacks: Sequence[Change]) -> Any:
        if key in FILE_NAMES and isinstance(value, str):
            return self.model
        if key.endswith(TOKEN_ENDINGS) or key in TOKEN_LISTS:
            return self._tokens(value, path, key in TOKEN_LISTS)
        if key in FORCED_TOKENS and value and self.tokens is not None:
            self._warn(path, "names tokens by their numbers in the parent: now null")
            return None
        if key == "mlp_ratio" and isinstance(value, int | float):
            return self._ratio(value, path, stacks)
        if all(change.kept == tuple(range(change.count)) for change in stacks):
            return value
        return self._by_layer(key, value, path, stacks[0])

    def _by_layer(self, key: str, value: Any, path: str, change: Change) -> Any:
        """What counts blocks, where some are gone, or stand twice."""
        kept, count = change.kept, change.count
        if isinstance(value, list):
            if key in STAGES:
                return _stages(key, value, change)
            if key in BY_LAYER and len(value) == count:
                return [value[k] for k in kept]
            if key in LAYERS and all(isinstance(k, int) and 0 <= k < count for k in value):
                return [place for place, old in enumerate(kept) if old in value]
            if len(value) == count and count > 2:
                self._warn(path, f"has {count} entries, as many as the parent has blocks: left as it is")
        elif key in FROM_LAYER and isinstance(value, int):
            return sum(k < value for k in kept) + max(0, value - count)
        elif key in PERIODS and value not in (None, 0, 1):
            self._warn(path, f"counts every {value} blocks, and they are others: left as it is")
        return value

    def _ratio(self, value: float, path: str, stacks: Sequence[Change]) -> Any:
        """DINOv2: the feed-forward is int(hidden_size * mlp_ratio) wide."""
        change = stacks[0]
        if change.before["ffn"] != int(_int(change.before["hidden"]) * value):
            self._warn(path, f"says {value}, the parent has {change.before['ffn']} for {change.before['hidden']}")
            return value
        hidden, ffn = _int(change.after["hidden"]), change.after["ffn"]
        found = [ffn / hidden, float(np.nextafter(ffn / hidden, np.inf))] if isinstance(ffn, int) else []
        exact = next((ratio for ratio in found if int(hidden * ratio) == ffn), None)
        if exact is None:
            self._warn(path, f"cannot say {_shown({ffn})}: still the parent's {value}")
            return value
        return int(exact) if exact == int(exact) else exact

    def _tokens(self, value: Any, path: str, droppable: bool) -> Any:
        """Ids counted among those kept."""
        if self.tokens is None or value is None or isinstance(value, bool):
            return value
        if isinstance(value, list):
            new = [self._tokens(v, path, droppable) for v in value]
            return [v for v in new if v is not None] if droppable else new
        if not isinstance(value, int) or value < 0:
            return value
        place = int(np.searchsorted(self.tokens, value))
        if place < len(self.tokens) and self.tokens[place] == value:
            return place
        if not droppable:
            self._warn(path, f"names the token {value}, which was not kept: now null")
        return None

    def _implied(self, held: Mapping[str, Any], made: Scope, where: str, stacks: Sequence[Change]) -> None:
        """What a configuration leaves out because it follows from the rest may no longer follow."""
        for key, implied in IMPLIED.items():
            default = implied.default(made)
            if held.get(key) is not None or default is None or not _holds(implied, held, stacks):
                continue
            after = {c.after[implied.size] for c in stacks}
            if after in ({default}, {None}):
                continue
            path = f"{where}.{key}" if where else key
            if len(after) == 1 and implied.stated(made) and isinstance(next(iter(after)), int):
                made[key] = after.pop()
            else:
                self._warn(path, f"cannot be said here, and would be {default:g}; the clone has {_shown(after)}")

    def _warn(self, path: str, what: str) -> None:
        self.warnings.append(f"{path} {what}")


def _stages(key: str, value: Sequence[Any], change: Change) -> list[Any]:
    """What a backbone gives out, after the blocks that are left: stem is 0, stage3 the stream after block 2."""
    new = {0: 0, **{old + 1: place + 1 for place, old in enumerate(change.kept)}}
    names = {f"stage{old}": f"stage{place}" for old, place in new.items() if old} | {"stem": "stem"}
    if key == "stage_names":
        return [names[name] for name in value if name in names]
    last = len(change.kept)
    found = [(new.get(v) if isinstance(v, int) else names.get(v)) for v in value]
    return list(
        dict.fromkeys(v if v is not None else (last if key == "out_indices" else f"stage{last}") for v in found)
    )


def _holds(implied: Implied, held: Mapping[str, Any], stacks: Sequence[Change]) -> bool:
    """Is the parent what the configuration implies?"""
    return {c.before[implied.size] for c in stacks} == {implied.default(held)}


def _whose(row: Row, stacks: Sequence[Change]) -> Sequence[Change]:
    if row.of and len(stacks) == 2:
        return [stacks[row.of == "decoder"]]
    return stacks


def _int(size: Size) -> int:
    assert isinstance(size, int)
    return size


def _shown(sizes: set[Size]) -> str:
    words = sorted(", ".join(map(str, s)) if isinstance(s, tuple) else str(s) for s in sizes)
    return " and ".join(words)
