"""An experiment as a .toml file says it: unknown keys are errors, and nothing has a second home."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphclone.errors import BadData

CONFIGS = Path(__file__).parent / "configs"
RESULTS = Path(__file__).parents[1] / "results" / "speedup"


@dataclass(frozen=True)
class Grid:
    """Where a search starts, and how far its edges may be moved."""

    start: tuple[float, ...]
    ladder: tuple[float, ...]

    def __post_init__(self) -> None:
        if not set(self.start) <= set(self.ladder) or list(self.ladder) != sorted(set(self.ladder)):
            raise BadData(f"a grid starts on its own ladder, which ascends: {self.start} of {self.ladder}")

    def around(self, value: float) -> Grid:
        """The same ladder, from a value of it and its neighbours."""
        place = self.ladder.index(value)
        return Grid(self.ladder[max(0, place - 1) : place + 2], self.ladder)


@dataclass(frozen=True)
class Config:
    """One experiment.

    task: a row of tasks.TASKS. target: the clone's shape. budget: B, in steps; horizons: B divided by each is trained
    to with a decay of its own. batch: rows a step. warmup: steps. decay: share of a horizon. evaluations: on the way.
    rates, decays: the grids of the learning rate and the weight decay; rounds: of looking for one and then the other;
    first: decays of starts from nothing, and of clones, while their rate is first looked for. tuned_at: the divisor of
    B at which arms are tuned (starts from nothing at B itself, where their loss is taken). seeds: of the figures; arms:
    rows of arms.ARMS.
    longest: the smallest divisor that arms run to with every seed; whole: arms that run to B, as random starts do.
    nothing: the arm from nothing that the others are held against. again: an experiment that this one repeats, but
    for what it says itself: rates and decays are taken from there, and nothing is tuned.
    root: where curves go. device, precision ("bf16": autocast): of PyTorch.
    """

    name: str
    task: str
    target: dict[str, int]
    budget: int
    batch: int
    horizons: tuple[int, ...]
    rates: Grid
    decays: Grid
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    data: dict[str, Any]
    warmup: int = 8
    decay: float = 0.25
    evaluations: int = 12
    tuned_at: int = 8
    rounds: int = 1
    first: tuple[float, float] = (0.1, 0.01)
    tuning_seed: int = 0
    longest: int = 2
    whole: tuple[str, ...] = ()
    nothing: str = "random"
    again: str = ""
    device: str = "cpu"
    precision: str = "fp32"
    about: str = field(default="", compare=False)
    root: Path = RESULTS

    def __post_init__(self) -> None:
        if any(self.budget % d for d in self.horizons) or 1 not in self.horizons or self.tuned_at not in self.horizons:
            raise BadData(f"{self.name}: horizons are divisors of {self.budget}, with 1 and {self.tuned_at} among them")
        if self.tuning_seed in self.seeds:
            raise BadData(f"{self.name}: seed {self.tuning_seed} tunes: the figures are of others")

    @property
    def tunes(self) -> Config:
        """The experiment that rates and decays are tuned in: this one, or another."""
        return replace(read(CONFIGS / f"{self.again}.toml"), root=self.root) if self.again else self

    @property
    def folder(self) -> Path:
        """Where curves are kept."""
        return self.root / self.name

    @property
    def digest(self) -> str:
        """Of everything that a curve depends on, beside arm, rate, decay and seed."""
        bound = ("task", "target", "budget", "batch", "warmup", "decay", "data", "precision")
        text = json.dumps({name: getattr(self, name) for name in bound}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def steps(self, divisor: int) -> int:
        """A horizon in steps."""
        return self.budget // divisor


def read(path: str | Path) -> Config:
    """Raises BadData for what is no configuration."""
    path = Path(path)
    held = _parsed(path)
    if "again" in held:
        repeated = _parsed(CONFIGS / f"{held['again']}.toml")
        held = repeated | held | {"data": repeated["data"] | held.get("data", {})}
    known = {f.name: f for f in dataclasses.fields(Config) if f.name not in ("name", "root")}
    needed = {n for n, f in known.items() if f.default is dataclasses.MISSING}
    if wrong := sorted(held.keys() - known.keys()) or sorted(needed - held.keys()):
        raise BadData(f"{path}: {wrong[0]} is unknown or missing; the keys are {', '.join(known)}")
    grids = {n: Grid(tuple(held[n]["start"]), tuple(held[n]["ladder"])) for n in ("rates", "decays")}
    lists = {n: tuple(v) for n, v in held.items() if isinstance(v, list)}
    return Config(**{"name": path.stem, **held, **lists, **grids})


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise BadData(f"{path}: not read as TOML ({reason})") from None
