"""docs/benchmarks.md: figures and tables of every experiment, made of the curves alone; nothing is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speedup import beside, figures, findings
from benchmarks.speedup import config as configs
from benchmarks.speedup.arithmetic import Interval
from benchmarks.speedup.clock import FACTS
from benchmarks.speedup.config import Config
from benchmarks.speedup.findings import NOTHING, Finding
from benchmarks.speedup.tasks import TASKS
from graphclone import outputs

DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# How many times faster

Written by `make benchmark-report` from the curves under `benchmarks/results/speedup`;
`python -m benchmarks.speedup EXPERIMENT` makes them, and goes on where it was stopped. What is measured, and why so:
[decision 20](decisions/0020-how-speed-up-is-measured.md).

An arm's *speed-up* is B / h: h is the length of a run of its own, with its own full decay of the learning rate, that
ends at the loss with which the tuned start from nothing ends after B steps. Every arm has a learning rate and a weight
decay of its own, found on a seed that no figure is of. Intervals are 95 % bootstraps over paired seeds; `>` marks a
lower bound (an arm that is there before the shortest run ends), `<` an upper one. Nothing is calibrated, tuned in its
method or trained on what is judged, but learning rates are chosen by it, for every arm alike.
"""


@dataclass(frozen=True)
class Claim:
    """Something the paper says, and the pair of arms that tests it: the first should be ahead."""

    says: str
    ahead: str
    behind: tuple[str, ...]


CLAIMS = (
    Claim("ranking neurons by importance is better than not ranking them", "paper", ("paper-random",)),
    Claim("scaling weights by sqrt(d/d') is better than leaving them", "paper", ("paper-unscaled",)),
    Claim("of the blocks, the middle ones are best removed", "paper", ("paper+stride", "paper+influence")),
)


def write(say: Callable[[str], None]) -> Path:
    """Everything that has run."""
    parts = [HEAD]
    for file in sorted(configs.CONFIGS.glob("*.toml")):
        config = configs.read(file)
        found = findings.of(config)
        if found:
            parts.append(_experiment(config, found, DOCS / "images"))
            say(f"{config.name}: {len(found)} arms")
        else:
            how = f"Not run yet: `python -m benchmarks.speedup {config.name}`."
            parts.append(f"\n## {config.name}\n\n{config.about.strip()}\n\n{how}\n")
    path = DOCS / "benchmarks.md"
    with outputs.staged(path) as draft:
        draft.write_text("".join(parts), encoding="utf-8")
    return path


def _experiment(config: Config, found: dict[str, Finding], pictures: Path) -> str:
    task = TASKS[config.task]
    ran = {name: one for name, one in found.items() if one.curves}
    figures.rates(config, found, task.score, pictures / f"speedup-{config.name}-rates.png")
    text = [f"\n## {config.name}\n\n{config.about.strip()}\n\n{_facts(config)}\n"]
    if ran:
        figures.horizons(config, ran, task.score, pictures / f"speedup-{config.name}.png")
        picture = f"![loss at the end of each horizon](images/speedup-{config.name}.png)"
        text.append(f"\n{_arms(config, ran)}\n\n{picture}\n")
    if rows := findings.levers(config, found):
        figures.levers(rows, pictures / f"speedup-{config.name}-levers.png")
        text.append(f"\n### Levers\n\n{_levers(rows)}\n\n![levers](images/speedup-{config.name}-levers.png)\n")
    if claims := _claims(config, found):
        text.append(f"\n### The paper's claims here\n\n{claims}\n")
    text.append(f"\n### Learning rates\n\n{_rates(found)}\n\n![rates](images/speedup-{config.name}-rates.png)\n")
    if clock := _clock(config, found):
        text.append(f"\n### Wall-clock\n\n{clock}\n")
    if others := beside.read(config):
        text.append(f"\n### Beside a model of its size\n\n{_beside(others)}\n")
    missing = [name for name in config.arms if name not in found or len(found[name].curves) < len(config.seeds)]
    if missing:
        text.append(f"\nNot finished: {', '.join(missing)}.\n")
    return "".join(text)


def facts(config: Config) -> dict[str, Any]:
    """What is known of an experiment beside its curves; nothing where it has not run."""
    file = config.folder / FACTS
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _facts(config: Config) -> str:
    held = facts(config)
    if not held:
        return f"B = {config.budget} steps of {config.batch} rows."
    places = held["places a row"] * config.batch * config.budget
    return (
        f"{held['parameters']:,} parameters of {held['parent parameters']:,}. B = {config.budget} steps of "
        f"{config.batch} rows: {places:,.0f} {TASKS[config.task].unit}, {places / held['parameters']:.3f} a parameter."
    )


def said(held: Interval | None) -> str:
    """``8.1 (6.2 to 9.9)``; the sign in front says that it is a bound."""
    if held is None:
        return ""
    bound = {"": "", "?": "about "}.get(held.bound, f"{held.bound} ")
    return f"{bound}{held.mean:.2f} ({held.low:.2f} to {held.high:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _arms(config: Config, found: dict[str, Finding]) -> str:
    near = config.steps(config.tuned_at)
    head = (
        "arm", "speed-up against random", "against the paper's, at its end", "at random's end", "loss before",
        f"after {near}", f"after {config.budget}", "seeds",
    )  # fmt: skip
    rows = [
        (name, said(None if one.arm.nothing and not one.arm.against else one.random), said(one.paper), said(one.early),
         _number(one.before), _number(one.end(near)), _number(one.end(config.budget)), str(len(one.curves)))
        for name, one in found.items()
    ]  # fmt: skip
    return table(head, rows)


def _levers(rows: list[tuple[Finding, Interval]]) -> str:
    held = [(one.arm.name, one.arm.shows, one.arm.against, said(sooner)) for one, sooner in rows]
    return table(("arm", "what it differs by", "from", "times sooner at random's end"), held)


def _claims(config: Config, found: dict[str, Finding]) -> str:
    lines = []
    for claim in CLAIMS:
        for name in claim.behind:
            if claim.ahead not in found or name not in found:
                continue
            held = findings.difference(found[claim.ahead], found[name], config.steps(config.tuned_at))
            if held is not None:
                lines.append(f"- {claim.says} (against {name}): {verdict(held)}.")
    return "\n".join(lines)


def verdict(held: Interval) -> str:
    """Of losses: the one that should be lower over the other."""
    told = "holds" if held.high < 1 else "does not hold" if held.low > 1 else "is not decided"
    share = f"loss {held.mean:.3f} times ({held.low:.3f} to {held.high:.3f}) that of the other, {held.seeds} seeds"
    return f"{told} here: {share}"


def _rates(found: dict[str, Finding]) -> str:
    rows = []
    for name, one in found.items():
        tried = ", ".join(f"{r:g}/{d:g}: {loss:.3f}" for (r, d), loss in sorted(one.tried.items()))
        rows.append((name, f"{one.rate:g}", f"{one.decay:g}", tried))
    return table(("arm", "learning rate", "weight decay", "all tried (rate/decay: loss)"), rows)


def _beside(held: list[dict[str, Any]]) -> str:
    head = (
        "model",
        "parameters",
        "1 - cosine to the parent",
        "rank correlation of the pairs' cosines with the parent's",
    )
    rows = [(row["model"], f"{row['parameters']:,}", f"{row['loss']:.3f}", f"{row['order']:.3f}") for row in held]
    return f"{beside.ABOUT}\n\n{table(head, rows)}"


def _clock(config: Config, found: dict[str, Finding]) -> str:
    """Seconds to the loss that the random arm ends with: what is made before training is counted."""
    held = facts(config)
    if "seconds a step" not in held or NOTHING not in found:
        return ""
    whole = config.budget * held["seconds a step"]
    rows = [("random", "0", f"{whole:.0f}", f"{whole:.0f}", "1")]
    for name, one in found.items():
        if one.random is None or one.arm.nothing:
            continue
        before = held["fit"] + held["second pass"].get(name, 0.0)
        if not one.arm.blind:
            before += held["moments" if one.arm.moments else "sums"]
        taught = config.batch * config.budget if one.arm.taught else 0
        training = (whole + held.get("teacher a row", 0.0) * taught) / one.random.mean
        total = before + held["cloning"] + training
        rows.append((name, f"{total - training:.0f}", f"{training:.0f}", f"{total:.0f}", f"{whole / total:.2f}"))
    head = ("arm", "before training, s", "training, s", "in all, s", "times faster")
    return f"{held['machine']}.\n\n{table(head, rows)}"
