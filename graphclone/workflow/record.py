"""RUN/run.json: what a run of a recipe did, one row a step, and all that is needed to go on after a kill.

Paths in rows are relative to the run folder where they lie in it, else absolute. ``figures`` of a row are plain values:

measure  tokens, batches, sites, providers, bytes
plan     parent, clone (each: parameters, stacks), neurons, blocks, importance, method, target
clone    parent, clone (each: parameters, bytes, stacks), not_updated
verify   passed, checks (each: name, verdict, detail, value, tolerance)
train    steps, tokens, losses, held_out ([step, loss] pairs), best, passed; ``twin``: the same, of one drawn at random
pack     tensors
torch, hugging_face    lines, parameters; family, tensors, files
bench    ``graphclone.timing.figures.Bench.as_dict()``
check    passed, gates (each: name, verdict, detail, value, limit)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from graphclone.errors import BadData
from graphclone.outputs import staged

FORMAT = 1
NAME = "run.json"


class State(StrEnum):
    """RUNNING in a file that nobody writes any more: killed there. SKIPPED: an earlier step of its target failed."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    RUNNING = "running"


@dataclass(frozen=True)
class Row:
    """One step, of one target or (``target`` None) of all.

    key: sha256 over everything that the outputs are made of. inputs, outputs: role -> path. contents: output's path ->
    sha256. seconds: that the step took when it last ran. reused: whether this run found it done. error: why it failed.
    """

    step: str
    target: str | None
    key: str
    state: State
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reused: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Seen:
    """A file as it was when its sha256 was taken: as long as size, time and inode are the same, so is the digest.

    parts: other files that the digest is of too (external data); they have entries of their own.
    """

    size: int
    modified: int  # nanoseconds
    inode: int
    sha256: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A run: rows in the order of the steps.

    recipe: the file it was read from ("-": standard input). settings: the recipe in effect, with what --set and the
    environment changed. command: what does it again. parent: path and sha256. files: path -> as last seen.
    """

    recipe: str
    settings: Mapping[str, Any]
    command: str
    parent: Mapping[str, str]
    version: str
    rows: tuple[Row, ...] = ()
    files: Mapping[str, Seen] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the clones, in the recipe's order."""
        return tuple(dict.fromkeys(row.target for row in self.rows if row.target is not None))

    @property
    def failures(self) -> tuple[Row, ...]:
        """Steps that failed, in order."""
        return tuple(row for row in self.rows if row.state is State.FAILED)

    def find(self, step: str, target: str | None) -> Row | None:
        """The row of a step, if there is one."""
        return next((row for row in self.rows if (row.step, row.target) == (step, target)), None)

    def noted(self, row: Row) -> Record:
        """With this row in place of the one of the same step and target, or at the end."""
        known = self.find(row.step, row.target)
        rows = (*self.rows, row) if known is None else tuple(row if one is known else one for one in self.rows)
        return replace(self, rows=rows)

    def write(self, folder: Path) -> None:
        """To ``folder``/run.json, whole or not at all."""
        with staged(folder / NAME) as draft:
            draft.write_text(json.dumps(asdict(self), sort_keys=True, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Record | None:
        """The record of a run folder, None where it holds none. Raises BadData for one that cannot be read."""
        file = Path(folder) / NAME
        if not file.exists():
            return None
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            return cls._of(held)
        except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as reason:
            raise BadData(f"{file}: not the record of a run ({reason}): remove it to start again") from None

    @classmethod
    def _of(cls, held: Mapping[str, Any]) -> Record:
        if held["format"] != FORMAT:
            raise ValueError(f"format {held['format']}, this graphclone reads {FORMAT}")
        stray = held.keys() - {f.name for f in fields(cls)}
        if stray:
            raise ValueError(f"unknown key {min(stray)!r}")
        rows = tuple(Row(**{**row, "state": State(row["state"])}) for row in held["rows"])
        files = {path: Seen(**{**seen, "parts": tuple(seen["parts"])}) for path, seen in held["files"].items()}
        return cls(**{**held, "rows": rows, "files": files})
