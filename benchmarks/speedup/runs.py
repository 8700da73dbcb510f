"""What is run, in which order, and what is there already: a run whose curve is on disk is never run again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.speedup import curves, teaching
from benchmarks.speedup.arithmetic import beyond, lowest
from benchmarks.speedup.arms import ARMS, Arm, redrawn, start
from benchmarks.speedup.config import Config, Grid
from benchmarks.speedup.curves import Curve, Key
from benchmarks.speedup.prepared import Prepared
from benchmarks.speedup.training import Learner, branches, cosine
from graphclone import pipeline
from graphclone.errors import BadData


@dataclass(frozen=True)
class Tuned:
    """An arm's own learning rate and weight decay; tried: every (rate, decay) with its loss at the horizon tuned at."""

    rate: float
    decay: float
    tried: dict[tuple[float, float], float]


def horizon_of(config: Config, arm: Arm) -> int:
    """Where an arm is tuned, in steps: at B where its loss is taken there, as that of starts from nothing is."""
    return config.budget if arm.nothing or arm.long else config.steps(config.tuned_at)


def run(held: Prepared, key: Key, horizons: Sequence[int], say: Callable[[str], None]) -> Curve:
    """The curve of a run that ends at least at these horizons; what is missing of it is trained."""
    config, arm = held.config, ARMS[key.arm]
    curve = curves.read(config, key)
    missing = sorted(set(horizons) - curve.ends.keys())
    if not missing:
        return curve
    began = time.monotonic()
    made = (cosine if arm.schedule == "cosine" else branches)(learner(held, arm, key), missing)
    curve = curves.merged(curve, made)
    curves.write(config, key, curve)
    ends = " ".join(f"{h}:{loss:.3f}" for h, loss in sorted(curve.ends.items()))
    say(f"{arm.name} lr {key.rate:g} wd {key.decay:g} seed {key.seed}: {ends} ({time.monotonic() - began:.0f} s)")
    return curve


def learner(held: Prepared, arm: Arm, key: Key) -> Learner:
    """The start of a run, ready to train."""
    clone = start(arm, held.source, key.seed)
    module = pipeline.to_torch(clone)
    if arm.drawn == "directions":
        redrawn(module, pipeline.to_torch(pipeline.reinitialised(clone, key.seed)), key.seed)
    dressed = held.task.dress(module, clone, arm.nothing, key.seed)
    imitate = teaching.imitation(held, arm.taught) if arm.taught else None
    config = replace(held.config, warmup=arm.warmup) if arm.warmup else held.config
    parts = (held.task, config, key.rate, key.decay, held.train, held.held_out, key.seed)
    return Learner(dressed, *parts, imitate=imitate, device=held.config.device)


def tune(held: Prepared, arm: Arm, say: Callable[[str], None]) -> Tuned:
    """The rate first, then the weight decay at that rate, and again; a grid whose best is at its edge goes on."""
    config = held.config
    if config.again:
        if (found := known(config, arm)) is None:
            raise BadData(f"{config.again} has not tuned {arm.name}: run that first")
        return found
    if arm.schedule == "cosine":  # the check of the schedule takes the other's
        return tune(held, ARMS[arm.against], say)
    horizon = horizon_of(config, arm)
    tried: dict[tuple[float, float], float] = {}

    def loss(rate: float, decay: float) -> float:
        key = Key(arm.kept, rate, decay, config.tuning_seed)
        tried[rate, decay] = run(held, key, [horizon], say).ends[horizon]
        return tried[rate, decay]

    rate, decay = _settled(config, arm, loss)
    say(f"{arm.name}: learning rate {rate:g}, weight decay {decay:g} ({tried[rate, decay]:.3f} at {horizon})")
    return Tuned(rate, decay, tried)


def _settled(config: Config, arm: Arm, loss: Callable[[float, float], float]) -> tuple[float, float]:
    """Rate and decay, one after the other; then, from where they are, again."""
    rates, decays, rate, decay = config.rates, config.decays, math.nan, config.first[0 if arm.nothing else 1]
    for _ in range(config.rounds):
        rate = _search(rates, lambda value, decay=decay: loss(value, decay))  # type: ignore[misc]  # decay, as it is now
        decay = _search(decays, partial(loss, rate))
        rates, decays = rates.around(rate), decays.around(decay)
    return rate, decay


def _search(grid: Grid, loss: Callable[[float], float]) -> float:
    losses = {value: loss(value) for value in grid.start}
    while (value := beyond(list(losses), grid.ladder, losses)) is not None:
        losses[value] = loss(value)
    return lowest(losses, sorted(losses))


def known(config: Config, arm: Arm) -> Tuned | None:
    """What tuning found, from the curves alone; None where it has not come to its end."""
    config = config.tunes
    if arm.schedule == "cosine":
        return known(config, ARMS[arm.against])
    horizon = horizon_of(config, arm)
    tried: dict[tuple[float, float], float] = {}

    def loss(rate: float, decay: float) -> float:
        found = curves.read(config, Key(arm.kept, rate, decay, config.tuning_seed)).ends
        tried[rate, decay] = found[horizon]
        return found[horizon]

    try:
        rate, decay = _settled(config, arm, loss)
    except KeyError:
        return None
    return Tuned(rate, decay, tried)


def horizons_of(config: Config, arm: Arm) -> list[int]:
    """The ends that an arm runs to with every seed, in steps."""
    if arm.schedule == "cosine":
        return [config.budget]
    whole = arm.nothing or arm.long or arm.name in config.whole
    divisors = [d for d in config.horizons if d >= (1 if whole else config.longest)]
    return sorted(config.steps(d) for d in divisors)


def everything(held: Prepared, names: Sequence[str], seeds: Sequence[int], say: Callable[[str], None]) -> None:
    """Tune every arm, then run each with every seed: seed by seed, so that arms can be held against each other."""
    tuned = {name: tune(held, ARMS[name], say) for name in names}
    for seed in seeds:
        for name in names:
            found = tuned[name]
            key = Key(ARMS[name].kept, found.rate, found.decay, seed)
            run(held, key, horizons_of(held.config, ARMS[name]), say)
    lost = [n for n, t in tuned.items() if not math.isfinite(t.tried[t.rate, t.decay])]
    if lost:
        say(f"no rate of the ladder trains {', '.join(lost)}")
