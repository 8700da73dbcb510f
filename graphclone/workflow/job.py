"""What a step gets to work with, and what it gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.statistics.request import Calibration
from graphclone.workflow.contents import DATASET, Contents
from graphclone.workflow.reading import Recipe
from graphclone.workflow.schema import Check, Data, Method, Target, Training

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.verification import Report

Tick = Callable[[int, int | None], None]
Progress = Callable[[str], AbstractContextManager[Tick]]
Say = Callable[[str], None]
PARENT = "parent"


@dataclass
class Opened:
    """The parent, read where the first step needs it and held for the others; and examinations just made, by the sha256
    of what was examined."""

    path: Path
    reports: dict[str, Report] = field(default_factory=dict)

    @cached_property
    def model(self) -> Model:
        """Its graph."""
        from graphclone import pipeline

        return pipeline.load(self.path)

    @cached_property
    def anatomy(self) -> Anatomy:
        """What can be cut."""
        from graphclone import pipeline

        return pipeline.inspect(self.model)


@dataclass(frozen=True)
class Done:
    """outputs: role -> path. figures: as in graphclone.workflow.record."""

    outputs: Mapping[str, Path]
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One step of one target, or (``name`` None) of all. found: role -> what earlier steps wrote. folder: where to
    write. resume: what a step of the same key left half done is to be gone on with."""

    recipe: Recipe
    name: str | None
    target: Target | None
    folder: Path
    found: Mapping[str, Path]
    opened: Opened
    contents: Contents
    say: Say
    progress: Progress
    resume: bool = False

    @property
    def wanted(self) -> Target:
        """The target of a step that has one."""
        assert self.target is not None
        return self.target

    @property
    def method(self) -> Method:
        """The target's own, or the recipe's."""
        return (self.target and self.target.method) or self.recipe.held.method

    @property
    def training(self) -> Training | None:
        """As ``method``."""
        return (self.target and self.target.training) or self.recipe.held.training

    @property
    def check(self) -> Check | None:
        """As ``method``."""
        return (self.target and self.target.check) or self.recipe.held.check

    @property
    def final(self) -> Path:
        """The clone as it is in the end."""
        return self.found.get("packed") or self.found.get("trained") or self.found["clone"]

    @property
    def side_folder(self) -> Path | None:
        """Where side files are read from, if the recipe names it."""
        asked = self.recipe.held.outputs.side_files
        return self.path(asked) if isinstance(asked, str) else None

    def path(self, spec: str) -> Path:
        """A path of the recipe."""
        return self.recipe.folder / spec

    def data(self, spec: str) -> str:
        """Data that the recipe names: a path where there is such a file, else as it stands."""
        if spec.startswith(DATASET):
            name, colon, rest = spec.removeprefix(DATASET).partition(":")
            return f"{DATASET}{self.path(name)}{colon}{rest}" if self.path(name).is_dir() else spec
        file, colon, function = spec.rpartition(":") if re.search(r"\.py:\w+$", spec) else (spec, "", "")
        return f"{self.path(file)}{colon}{function}" if self.path(file).exists() else spec

    def calibration(self, data: Data, *, moments: bool = False) -> Calibration:
        """What a section about data asks for."""
        held = self.recipe.held
        return Calibration(
            data=self.data(data.source),
            tokenizer=None if data.tokenizer is None else str(self.path(data.tokenizer)),
            length=data.length,
            batch_size=data.batch_size,
            limit=data.limit,
            seed=held.seed,
            provider=held.provider,
            threads=held.threads,
            column=data.column,
            images=None if data.images is None else self.data(data.images),
            mask=data.mask,
            moments=moments,
        )

    def drawn(self, data: Data | None) -> dict[str, Any]:
        """What batches are made of, as a key takes it: contents and settings."""
        if data is None:
            return {}
        named = (self.path(data.tokenizer) if data.tokenizer else None, self.path(data.images) if data.images else None)
        files = [self.contents.of(file) for file in named if file is not None and file.is_file()]
        beside = self.contents.beside(self.opened.path)
        return {
            "data": self.contents.of_data(self.data(data.source)),
            "files": files,
            "beside": beside,
            "settings": data.model_dump(exclude={"source", "tokenizer"}),
            "seed": self.recipe.held.seed,
        }
