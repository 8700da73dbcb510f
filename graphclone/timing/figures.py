"""What timing gives: medians with their spread, and ratios taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the same thing measured several times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value.

        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Setting:
    """provider: ONNX Runtime's. threads: None where ONNX Runtime chooses. warmup, runs: of each model and length;
    warm-up does not count. unit: what ``Timing.throughput`` counts."""

    provider: str
    threads: int | None
    batch: int
    warmup: int
    runs: int
    unit: str
    runtime: str
    processor: str


@dataclass(frozen=True)
class Timing:
    """length: of the sequences, None where the graph has no such axis. latency: seconds of one run of a batch.
    throughput: the setting's unit a second, at the median. seconds: every run that counts, in order."""

    length: int | None
    latency: Spread
    throughput: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """One model. bytes: of all its files. memory: bytes that its process grew by at most, from before the model was
    loaded to after its last run, None where the system does not say; device_memory: of the GPU, likewise. load:
    seconds to open it. parameters: None where the graph cannot be traced."""

    model: str
    parameters: int | None
    bytes: int
    load: float
    memory: int | None
    device_memory: int | None
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class Bench:
    """Parent and clone, run in turns. ratios: clone over parent, a length each, of latencies of the same round: what
    slows the machine down for a while slows both, and leaves the ratio as it is."""

    setting: Setting
    parent: Measured
    clone: Measured
    ratios: tuple[Spread, ...]

    @property
    def ratio(self) -> float:
        """The largest of the median ratios: the length at which the clone gains least."""
        return max(ratio.median for ratio in self.ratios)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "ratio": self.ratio}
