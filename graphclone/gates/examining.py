"""One function a gate; those that no limit is given for are not run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from graphclone import pipeline
from graphclone.errors import BadData, InvalidTarget
from graphclone.sizing.budget import amount
from graphclone.statistics.callables import find, fits
from graphclone.verification import Check, Report, Verdict


@dataclass(frozen=True)
class Limits:
    """max_params: 50M, or a share of the parent's; max_size: 100MB, likewise; max_latency_ratio: of the parent's time;
    min_score: ``module:function=MINIMUM``, see ``_score``."""

    max_params: str | int | None = None
    max_size: str | int | None = None
    max_latency_ratio: float | None = None
    min_score: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is limited."""
        return all(getattr(self, f.name) is None for f in fields(self))


@dataclass
class Examined:
    """A clone with what gates ask about it. timing: further arguments of ``graphclone.timing.bench``."""

    clone: Path
    parent: Path | None
    timing: dict[str, Any] = field(default_factory=dict)

    def against(self, gate: str) -> Path:
        """The parent. Raises InvalidTarget, naming what needs it, where none is given."""
        if self.parent is None:
            raise InvalidTarget(f"{gate} is held against the parent: give it (--parent PARENT.onnx)")
        return self.parent

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The clone's, by kind."""
        return _sizes(self.clone)

    @cached_property
    def whole(self) -> dict[str, int]:
        """The parent's."""
        return _sizes(self.against("a share"))


def examine(
    clone: str | Path, limits: Limits, parent: str | Path | None = None, *, timing: dict[str, Any] | None = None
) -> Report:
    """Measure what is limited. A gate that is not met is a failed check; what cannot be measured raises.

    Raises InvalidTarget where nothing is limited, for a limit that is no amount, and for one that needs a parent.
    """
    if limits.empty:
        raise InvalidTarget(
            "nothing to check: give --max-params, --max-size, --max-latency-ratio or --min-score (in a recipe: "
            "max_params and so on)"
        )
    held = Examined(Path(clone), None if parent is None else Path(parent), timing or {})
    asked = [f.name for f in fields(limits) if getattr(limits, f.name) is not None]
    return Report(tuple(GATES[name](held, getattr(limits, name)) for name in asked))


def _sizes(file: Path) -> dict[str, int]:
    model = pipeline.load(file)
    size = sum(part.stat().st_size for part in {model.path or file, *model.external_files})
    return {"params": pipeline.inspect(model).parameters, "size": size}


def _most(kind: str, name: str) -> Callable[[Examined, Any], Check]:
    def gate(held: Examined, limit: str | int) -> Check:
        value, most = held.sizes[kind], amount(kind, limit, lambda: held.whole[kind], f"max {kind}")
        return Check.measured(name, float(value), most, f"{value:,} of at most {most:,.0f} ({limit})")

    return gate


def _latency_ratio(held: Examined, most: float) -> Check:
    """The median over rounds, at the length where the clone gains least."""
    from graphclone.timing.bench import bench

    found = bench(held.against("the latency ratio"), held.clone, **held.timing)
    worst = max(range(len(found.ratios)), key=lambda k: found.ratios[k].median)
    ratio, length = found.ratios[worst], found.clone.timings[worst].length
    at = f" at length {length}" if length is not None else ""
    spread = f"{ratio.low:.3f} to {ratio.high:.3f} in half of {found.setting.runs} rounds"
    return Check.measured("latency ratio", ratio.median, most, f"{ratio.median:.3f}{at} of at most {most:g} ({spread})")


def _score(held: Examined, asked: str) -> Check:
    """``function(path)`` of the user's gives a number, higher is better. ``=0.9`` is its minimum, ``=95%`` a share of
    what it gives for the parent; without either it gives True or False. Raises BadData for what it raises."""
    spec, equals, least = asked.partition("=")
    if not fits(spec):
        raise InvalidTarget(f"min score {asked!r}: name a function, such as quality.py:accuracy=0.9")
    value = _called(spec, held.clone)
    if not equals:
        if not isinstance(value, bool):
            raise InvalidTarget(f"min score {asked}: it gave {value:g}; say how much is enough: {spec}=MINIMUM")
        verdict = Verdict.PASSED if value else Verdict.FAILED
        return Check(spec, verdict, f"it says {'yes' if value else 'no'}", float(value), 1.0)
    try:
        number = float(least.removesuffix("%"))
    except ValueError:
        raise InvalidTarget(f"min score {asked!r}: {least!r} is no number, nor a share such as 95%") from None
    share = least.endswith("%")
    minimum = number / 100 * float(_called(spec, held.against("a share"))) if share else number
    enough = float(value) >= minimum
    of = f" ({least} of the parent's)" if share else ""
    detail = f"{float(value):.6g} of at least {minimum:.6g}{of}"
    return Check(spec, Verdict.PASSED if enough else Verdict.FAILED, detail, float(value), minimum)


def _called(spec: str, model: Path) -> float | bool:
    function, _ = find(spec)
    try:
        found = function(model)
        given = found if isinstance(found, bool) else float(found)
    except Exception as reason:
        raise BadData(f"{spec}: {type(reason).__name__}: {reason}") from reason
    if math.isnan(given):
        raise BadData(f"{spec}: it gave no number for {model}")
    return given


GATES: dict[str, Callable[[Examined, Any], Check]] = {
    "max_params": _most("params", "parameters"),
    "max_size": _most("size", "bytes"),
    "max_latency_ratio": _latency_ratio,
    "min_score": _score,
}

if GATES.keys() != {f.name for f in fields(Limits)}:
    raise ValueError("each limit has its gate")
