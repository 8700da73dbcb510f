"""What the paper says, each held against a pair of arms that differ by that and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.speedup import findings, runs
from benchmarks.speedup.arithmetic import Interval, interval
from benchmarks.speedup.config import Config
from benchmarks.speedup.findings import PAPERS, Finding


@dataclass(frozen=True)
class Claim:
    """Something the paper says, and the arms that test it: ``ahead`` should be so of each of ``behind``. short: above a
    picture. where: an arm that the experiments have in which the two differ by nothing else."""

    says: str
    short: str
    ahead: str
    behind: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True)
class Tested:
    """A claim and one pair of arms. ratios: loss of the first over that of the second, at the horizon tuned at."""

    claim: Claim
    ahead: Finding
    behind: Finding
    ratios: tuple[float, ...]

    @property
    def held(self) -> Interval:
        """Of the ratios."""
        return interval(self.ratios)

    @property
    def verdict(self) -> str:
        """Below 1 with its whole interval, and with every seed: holds; above: does not."""
        if self.held.high < 1 and max(self.ratios) < 1:
            return "holds"
        return "does not hold" if self.held.low > 1 and min(self.ratios) > 1 else "is open"


CLAIMS = (
    Claim("ranking neurons by importance is better than not ranking them", "ranking", "paper", ("paper-random",)),
    Claim("scaling weights by sqrt(d/d') is better than leaving them", "scaling", "paper", ("paper-unscaled",)),
    Claim("of the blocks, the middle ones are best removed", "depth", "paper", ("paper+stride", "paper+influence")),
    Claim(
        "the same, with graphclone's ranking and correction", "depth", "default+middle", ("default+stride", "default")
    ),
    Claim(
        "the same, with graphclone's ranking and the paper's scaling", "depth", "paper+vote", ("default",), "corrected"
    ),
)
ALIKE = 0.01  # of a loss: some twice what seeds make of it
RATE, DECAY = "a clone trains best at a lower learning rate than a start from nothing", "and at a lower weight decay"


def tested(config: Config, found: dict[str, Finding]) -> list[Tested]:
    """Every claim that there are curves for."""
    rows = []
    for claim in CLAIMS:
        for name in claim.behind:
            if claim.ahead not in found or name not in found or (claim.where and claim.where not in found):
                continue
            ratios = findings.ratios(found[claim.ahead], found[name], config.steps(config.tuned_at))
            if ratios:
                rows.append(Tested(claim, found[claim.ahead], found[name], tuple(ratios)))
    return rows


def told(config: Config, found: dict[str, Finding]) -> str:
    """One line a claim, in Markdown."""
    near = config.steps(config.tuned_at)
    lines = []
    for row in tested(config, found):
        held, names = row.held, f"{row.ahead.arm.name} against {row.behind.arm.name}"
        share = f"loss {held.mean:.3f} times ({held.low:.3f} to {held.high:.3f}) that of the other, {held.seeds} seeds"
        lines.append(f"- {row.claim.says} ({names}): after {near} steps it {row.verdict} here: {share}.")
    paper = next((found[name] for name in reversed(PAPERS) if name in found), None)  # for B, where it is so tuned
    if config.nothing in found and paper is not None and not config.again:
        nothing = found[config.nothing]
        horizons = [runs.horizon_of(config, held.arm) for held in (paper, nothing)]
        where = f"tuned by runs of {horizons[0]} and of {horizons[1]} steps, of one seed"
        for says, part in ((RATE, 0), (DECAY, 1)):
            one, other = ((held.rate, held.decay)[part] for held in (paper, nothing))
            lines.append(f"- {says}: {_lower(paper, nothing, part)} here: {one:g} against {other:g} ({where}).")
    return "\n".join(lines)


def _lower(paper: Finding, nothing: Finding, part: int) -> str:
    """Whether the paper's rate (0) or decay (1) is lower: open where they are one, or where one of the two arms is as
    good, within ALIKE, at the other's."""
    mine, others = [(held.rate, held.decay) for held in (paper, nothing)]
    if mine[part] == others[part]:
        return "is open"
    for held, value in ((paper, others[part]), (nothing, mine[part])):
        beside = (value, held.decay) if part == 0 else (held.rate, value)
        if held.tried.get(beside, math.inf) <= held.tried[held.rate, held.decay] * (1 + ALIKE):
            return "is open"
    return "holds" if mine[part] < others[part] else "does not hold"
