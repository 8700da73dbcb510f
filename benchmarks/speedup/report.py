"""docs/benchmarks.md: figures and tables of every experiment, made of the curves alone; nothing is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speedup import beside, claims, figures, findings
from benchmarks.speedup import config as configs
from benchmarks.speedup.arithmetic import Interval
from benchmarks.speedup.clock import FACTS
from benchmarks.speedup.config import Config
from benchmarks.speedup.findings import PAPERS, Finding
from benchmarks.speedup.tasks import TASKS
from graphclone import outputs

NEAR = 8  # the divisor of B after which losses are shown where arms are tuned at B itself
DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# How many times faster

Written by `make benchmark-report` from the curves under `benchmarks/results/speedup`;
`python -m benchmarks.speedup EXPERIMENT` makes them, and goes on where it was stopped. What is measured, and why so:
[decision 20](decisions/0020-how-speed-up-is-measured.md).

An arm's *speed-up* is B / h: h is the length of a run of its own, with its own full decay of the learning rate, that
ends at the loss with which the tuned start from nothing ends after B steps. Every arm has a learning rate and a weight
decay of its own (along a cosine: those of the arm that it checks), found on a seed that no figure is of. Intervals are
percentile bootstraps over paired seeds, 95 % by name and some 83 % in truth where there are five; they speak of other
orders of the same rows, not of other rows held out. `>` marks a lower bound (an arm that is there before the shortest
run ends), `<` an upper one.

No parent is measured and nothing is trained on rows that are judged. But by losses on these rows the learning rates of
every arm were chosen, and what graphclone's default is: which blocks go ([22](decisions/0022-which-blocks-go.md)), how
weights are corrected under LayerNorms ([23](decisions/0023-scaling-under-layer-norms.md)), the shape of the clones.
Experiments called `-fresh` repeat the main arms as they were tuned, and judge them on rows that nothing was chosen by.

`random` starts from nothing, `paper` is the paper's method whole, `default` is `graphclone clone` as it comes; other
arms differ from one that is named beside them. Of the starts that take none of the parent's weights, `random-warm` has
64 steps of warm-up and not eight, `-matched` draws each matrix with the deviation that it has in the paper's clone, and
`-cosine` checks the schedule. Starts from nothing are tuned by runs of B steps, clones by shorter ones, near where they
are as good, but for `encoder-long`, where all are tuned at B; `paper-long` is the paper's method tuned by runs of B
steps too. *Against the paper's*: against the one of the two that ends lower. *At random's end*: how many times sooner
than the one of the two that is there first an arm has the loss with which the start from nothing ends. An empty cell
was not run that long.
"""


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
    text = [f"\n## {config.name}\n\n{config.about.strip()}\n\n{_facts(config)}\n"]
    missing = [name for name in config.arms if name not in found or len(found[name].curves) < len(config.seeds)]
    if missing:
        text.append(f"\nNot finished: {', '.join(missing)}.\n")
    if ran:
        figures.horizons(config, ran, task.score, pictures / f"speedup-{config.name}.png")
        picture = f"![loss at the end of each horizon](images/speedup-{config.name}.png)"
        text.append(f"\n{_arms(config, ran)}\n{_lower(config, ran)}\n{picture}\n")
        text.append(f"\n### Had B been smaller\n\n{_smaller(config, ran)}\n")
    if rows := findings.levers(config, found):
        figures.levers(rows, pictures / f"speedup-{config.name}-levers.png")
        text.append(f"\n### Levers\n\n{_levers(rows)}\n\n![levers](images/speedup-{config.name}-levers.png)\n")
    if told := claims.told(config, found):
        text.append(f"\n### The paper's claims here\n\n{told}\n")
    if tested := claims.tested(config, found):
        figures.claims(tested, task.score, pictures / f"speedup-{config.name}-claims.png")
        text.append(f"\n![claims](images/speedup-{config.name}-claims.png)\n")
    if not config.again:
        figures.rates(config, found, task.score, pictures / f"speedup-{config.name}-rates.png")
        text.append(f"\n### Learning rates\n\n{_rates(found)}\n\n![rates](images/speedup-{config.name}-rates.png)\n")
    if clock := _clock(config, found):
        text.append(f"\n### Wall-clock\n\n{clock}\n")
    if others := beside.read(config, found):
        text.append(f"\n### Beside a small encoder made by others\n\n{_beside(others)}\n")
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
        f"{config.batch} rows: {places:,.0f} {TASKS[config.task].unit}, {places / held['parameters']:.3f} a parameter. "
        f"{config.data['judged']} rows are judged.{_least(config, held)}{_spent(config, held)}"
    )


def _least(config: Config, held: dict[str, Any]) -> str:
    """What the width of the clones makes impossible."""
    if "least loss" not in held:
        return ""
    return f" A hidden size of {config.target['hidden']} alone keeps every loss above some {held['least loss']:.3f}."


def _spent(config: Config, held: dict[str, Any]) -> str:
    """What all runs took, at the pace that was clocked."""
    steps = findings.trained(config)
    if "seconds a step" not in held or not steps:
        return ""
    hours = steps * held["seconds a step"] / 3600
    return f" All runs, those that tune among them, are {steps:,} steps: {hours:.1f} h at the pace below."


def said(held: Interval | None) -> str:
    """``8.1 (6.2 to 9.9)``; where it is a bound, the end of the interval that is sure: ``> 6.2``."""
    if held is None:
        return ""
    if held.bound == "?":
        return "not known: both before the shortest run, or beyond the longest"
    if held.bound:
        return f"{held.bound} {held.low if held.bound == '>' else held.high:.2f}"
    return f"{held.mean:.2f} ({held.low:.2f} to {held.high:.2f})"


def _there(held: Interval | None, one: Finding) -> str:
    """The same, and for an arm that no run brings there, how long the longest was."""
    if held is not None and held.bound == "<" and held.low == held.high:
        return f"not by step {max(h for curve in one.curves.values() for h in curve.ends)}"
    return said(held)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _arms(config: Config, found: dict[str, Finding]) -> str:
    near = config.steps(NEAR if config.tuned_at == 1 else config.tuned_at)
    head = (
        "arm", f"speed-up against {config.nothing}", "against the paper's, at its end",
        f"at {config.nothing}'s end", "loss before", f"after {near}", f"after {config.budget}", "seeds",
    )  # fmt: skip
    rows = [
        (name, _there(None if name == config.nothing else one.random, one), _there(one.paper, one),
         said(one.early),
         _number(one.before), _number(one.end(near)), _number(one.end(config.budget)), str(len(one.curves)))
        for name, one in found.items()
    ]  # fmt: skip
    return table(head, rows)


def _lower(config: Config, found: dict[str, Finding]) -> str:
    """What clones are worth against any other start that takes no weights of the parent's and ends lower."""
    lines = []
    nothing = found.get(config.nothing)
    bar = None if nothing is None else nothing.end(config.budget)
    for name, one in found.items():
        ended = one.end(config.budget)
        if bar is None or not one.arm.nothing or ended is None or ended >= bar:
            continue
        told = [
            f"{clone} {said(findings.sooner(one.curves, found[clone].curves, config.budget))}"
            for clone in (*PAPERS, "default")
            if clone in found
        ]
        lines.append(f"\n`{name}` ends lower than `{config.nothing}`. Speed-ups against it: {'; '.join(told)}.\n")
    return "".join(lines)


def _smaller(config: Config, found: dict[str, Finding]) -> str:
    """The speed-up against random, of the runs that there are, at a half and a quarter of B."""
    nothing = found.get(config.nothing)
    budgets = [config.steps(d) for d in (4, 2, 1) if d in config.horizons]
    rows = [
        (name, *(said(findings.sooner(nothing.curves, found[name].curves, b)) for b in budgets))
        for name in (*PAPERS, "default")
        if nothing is not None and name in found
    ]
    told = (
        "All are tuned for the whole B. "
        if config.tuned_at == 1
        else "Starts from nothing (and `paper-long`) are tuned for the whole B, the others for "
        f"{config.steps(config.tuned_at)} steps: a smaller B is to the clones' advantage. "
    )
    told += "What a larger one would show was not run."
    return f"{told}\n\n{table(('arm', *(f'B = {b}' for b in budgets)), rows)}"


def _levers(rows: list[tuple[Finding, Interval]]) -> str:
    held = [(one.arm.name, one.arm.shows, one.arm.against, said(sooner)) for one, sooner in rows]
    return table(("arm", "what it differs by", "from", "times sooner at random's end"), held)


def _rates(found: dict[str, Finding]) -> str:
    rows = []
    for name, one in found.items():
        if one.arm.schedule == "cosine":
            continue  # it takes another's
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
    if "seconds a step" not in held or config.nothing not in found:
        return ""
    whole = config.budget * held["seconds a step"]
    rows = [(config.nothing, "0", f"{whole:.0f}", f"{whole:.0f}", "1")]
    absent = []
    for name, one in found.items():
        kept = one.arm.kept
        clocked = kept in held["second pass"] and (not one.arm.taught or "teacher a row" in held)
        if one.random is None or one.arm.nothing or one.random.bound == "?":
            continue
        if not clocked:
            absent.append(name)
            continue
        before = held["fit"] + held["second pass"][kept] + held["cloning"]
        if not one.arm.blind:
            before += held["moments" if one.arm.moments else "sums"]
        taught = held["teacher a row"] * config.batch * config.budget if one.arm.taught else 0
        training = (whole + taught) / one.random.mean
        sign = {"": "", "<": "> ", ">": "< "}[one.random.bound]  # of the seconds: the other way round
        times = f"{one.random.bound} {whole / (before + training):.2f}".strip()
        rows.append((name, f"{before:.0f}", f"{sign}{training:.0f}", f"{sign}{before + training:.0f}", times))
    head = ("arm", "before training, s", "training, s", "in all, s", "times faster")
    note = f"\n\nNot timed yet: {', '.join(absent)}." if absent else ""
    return f"{held['machine']}.\n\n{table(head, rows)}{note}"
