"""Options that would do nothing beside the others that were given: they are refused where somebody typed them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from graphclone.cli import typed

READING = ("tokenizer", "column", "images", "length", "batch_size", "limit", "seed")  # how --data is read
TIMING = ("lengths", "batch_size", "runs", "warmup", "provider", "threads")
LISTENING = ("teacher_weight", "hidden_weight", "cache", "top")
OF_TEXT = ("tokenizer", "column", "length")
OF_DATA = "how --data is read"
OF_LATENCY = "how --max-latency-ratio is timed"
RUN = "a run folder holds its own statistics, training and losses: give it alone"


def refuse_of_data(data: str | None, *used: str) -> None:
    """How data is read, where there is none or it is of a kind that is read otherwise. used: by something else."""
    if data is None:
        typed.refuse_without("--data", OF_DATA, *(name for name in READING if name not in used))
        return
    from graphclone.statistics.kinds import kinds_of

    kinds = kinds_of(data)
    if kinds and (kinds[0].named or Path(data).exists()):  # that a file is missing is said first
        takes = {name for kind in kinds for name in kind.takes}  # which of them is read, the graph says
        others = (name for name in READING if name not in (*takes, "limit", *used))
        typed.refuse(f"does nothing for {kinds[0].looks_like}: leave it out", *others)


def refuse_of_clones(given: Mapping[str, Any]) -> None:
    """Of `plan` and `clone`, by what else is given."""
    used = {"tokenizer"} if given["vocab"] or given.get("plan") else set()
    if given["vocab"] and _has_columns(given["vocab"]):
        used.add("column")
    if given.get("tournament"):
        used |= {"tokenizer", "seed"}
    refuse_of_data(given["data"], *used)
    if given["latency"] is None and "out" in given:
        typed.refuse("a run is timed for --latency alone: give that as well, or leave it out", "timed")
    if given["layers"] is None:
        typed.refuse_without("--layers", "that --layers may be more than the parent has", "deeper")
    if given["layers"] is None and not any(given[name] for name in ("params", "size", "latency")):
        typed.refuse("chooses which blocks go, and none is to: give --layers, or leave it out", "depth")


def refuse_of_training(given: Mapping[str, Any]) -> None:
    """Of `train`."""
    if given["teacher"] is None:
        typed.refuse("of what a teacher says: give --teacher PARENT.onnx too", *LISTENING)
    if given["cache"] is None:
        typed.refuse_without("--cache", "how much of what a teacher says is kept", "top")
    if given["schedule"] != "wsd":
        typed.refuse_without("--schedule wsd", "when its learning rate falls", "decay")
    if not given["held_out"]:
        judged = ("evaluations", *(["keep"] if given["keep"] == "best" else ()))
        typed.refuse("nothing is held out to evaluate on (--held-out 0): leave it out", *judged)
    if given["task"] == "image-classification":
        typed.refuse("does nothing for images: leave it out", *OF_TEXT)
    else:
        refuse_of_data(given["data"], "seed", "tokenizer")  # which knows the mask token, too


def _has_columns(spec: str) -> bool:
    from graphclone.statistics.kinds import kinds_of

    return any("column" in kind.takes for kind in kinds_of(spec))


def refuse_of_gates(given: Mapping[str, Any]) -> None:
    """Of `check`, by what is limited."""
    if given["max_latency_ratio"] is not None:
        return
    typed.refuse_without("--max-latency-ratio", OF_LATENCY, *TIMING)
    shares = (given[name] for name in ("max_params", "max_size", "min_score"))
    if not any(share and share.strip().endswith("%") for share in shares):
        typed.refuse("no limit is held against the parent: give one that is, such as 50%, or leave it out", "parent")


def positive(value: float | None) -> float | None:
    """Of an option. Raises typer.BadParameter for what is no number above 0."""
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} is no number above 0")
    return value
