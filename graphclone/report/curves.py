"""Training curves, from what training leaves: the line of ``train --json``, a demo's results, a folder of logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphclone.errors import BadData
from graphclone.report.facts import Curve
from graphclone.requirements import FEATURES

MOST_POINTS = 400  # of one arm's batch losses: neighbours are averaged beyond
ARMS = ("clone", "twin")  # what a demo trains
HELD_OUT, TRAIN = "heldout/loss", "train/loss"  # as training names them in its logs


def curves(given: str) -> tuple[Curve, ...]:
    """The arms in ``LABEL=PATH`` or ``PATH``. Raises BadData for a path that holds no curve."""
    label, separator, path = given.partition("=")
    file = Path(path if separator else given)
    name = label if separator else file.stem
    if file.is_dir():
        results = file / "results.json"
        return _demo(_read(results), results) if results.is_file() else (_logs(file, name),)
    held = _read(file)
    return _demo(held, file) if ARMS[0] in held else (curve(name, held, str(file)),)


def curve(name: str, held: Mapping[str, Any], where: str = "training") -> Curve:
    """One arm of plain values: losses, and held_out as (step, loss) pairs. Raises BadData."""
    try:
        pairs = held["held_out"] if "held_out" in held else held["evaluations"]
        evaluated = [(int(step), float(loss)) for step, loss in pairs]
        losses = [float(loss) for loss in held["losses"]]
    except (KeyError, TypeError, ValueError) as reason:
        raise BadData(f"{where}: no training curve: not what `graphclone train --json` prints ({reason})") from None
    return Curve(name, evaluated, losses)


def thinned(losses: Curve) -> list[tuple[int, float]]:
    """(step, loss of the batch), at most ``MOST_POINTS``: means of neighbours where there are more."""
    values, count = losses.losses, len(losses.losses)
    parts = min(count, MOST_POINTS)
    bounds = [count * k // parts for k in range(parts + 1)] if parts else [0]
    return [(b, sum(values[a:b]) / (b - a)) for a, b in pairwise(bounds)]


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise BadData(f"{file}: no training curve: not what `graphclone train --json` prints ({reason})") from None
    if not isinstance(held, dict):
        raise BadData(f"{file}: no training curve: not what `graphclone train --json` prints")
    return held


def _demo(held: Mapping[str, Any], file: Path) -> tuple[Curve, ...]:
    try:
        return tuple(
            curve(arm["name"], {"losses": (), "held_out": list(zip(arm["steps"], arm["losses"], strict=True))})
            for arm in (held[key] for key in ARMS)
        )
    except (KeyError, TypeError, ValueError) as reason:
        raise BadData(f"{file}: not the results of `graphclone demo` ({reason!r})") from None


def _logs(folder: Path, name: str) -> Curve:
    """TensorBoard's event files, which ``train --logs`` writes."""
    FEATURES["logs"].require(f"{folder}, a folder of logs")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    there = read.Tags()["scalars"]
    if HELD_OUT not in there and TRAIN not in there:
        raise BadData(f"{folder}: no training curve: neither {HELD_OUT} nor {TRAIN} in its logs")
    points = {
        tag: [(event.step, float(event.value)) for event in read.Scalars(tag)] if tag in there else []
        for tag in (HELD_OUT, TRAIN)
    }
    return Curve(name, points[HELD_OUT], [loss for _, loss in points[TRAIN]])
