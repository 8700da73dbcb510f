"""Curves on disk: one small csv a run, one row an evaluation; what a run is, is its path."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speedup.config import Config
from graphclone import outputs
from graphclone.errors import BadData

COLUMNS = ("horizon", "step", "loss")
MARKS = ("lr", "wd", "seed")  # in a file's name
TRUNK = 0  # in the column of horizons: before any decay


@dataclass(frozen=True)
class Key:
    """One run: everything that its curve depends on, beside the configuration."""

    arm: str
    rate: float
    decay: float
    seed: int

    def file(self, config: Config) -> Path:
        """Where its curve lies."""
        return config.folder / self.arm / f"lr{self.rate:g}_wd{self.decay:g}_seed{self.seed}.csv"


@dataclass(frozen=True)
class Curve:
    """ends: horizon in steps -> held-out loss after its decay. trunk: step -> held-out loss at the constant rate."""

    ends: dict[int, float] = field(default_factory=dict)
    trunk: dict[int, float] = field(default_factory=dict)


def read(config: Config, key: Key) -> Curve:
    """What there is of a run. Raises BadData for a curve of another configuration."""
    file = key.file(config)
    found = Curve()
    if not file.is_file():
        return found
    with file.open(newline="", encoding="utf-8") as stream:
        mark = stream.readline().strip()
        if mark != f"# {config.digest}":
            raise BadData(f"{file}: was run with other settings ({mark}, now {config.digest}): delete it, or rename")
        for row in csv.DictReader(stream):
            into = found.ends if int(row["horizon"]) != TRUNK else found.trunk
            into[int(row["step"])] = float(row["loss"])
    return found


def write(config: Config, key: Key, curve: Curve) -> None:
    """All of a run, at once or not at all."""
    file = key.file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    with outputs.staged(file) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
        stream.write(f"# {config.digest}\n")
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((TRUNK, step, f"{loss:.5f}") for step, loss in sorted(curve.trunk.items()))
        table.writerows((step, step, f"{loss:.5f}") for step, loss in sorted(curve.ends.items()))


def every(config: Config) -> list[Curve]:
    """Of all runs of an experiment that are on disk, those of other settings left out."""
    held = []
    for file in sorted(config.folder.glob("*/lr*_wd*_seed*.csv")):
        rate, decay, seed = (part.removeprefix(mark) for part, mark in zip(file.stem.split("_"), MARKS, strict=True))
        try:
            held.append(read(config, Key(file.parent.name, float(rate), float(decay), int(seed))))
        except BadData:
            continue
    return held


def merged(one: Curve, other: Curve) -> Curve:
    """Both; where they overlap, the second."""
    return Curve({**one.ends, **other.ends}, {**one.trunk, **other.trunk})
