"""The arms: how a start is made. One row each; what a row is compared with, and what it shows, stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from graphclone import pipeline
from graphclone.anatomy.parts import Anatomy
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.pytorch.training.optimiser import is_matrix
from graphclone.statistics.store import Statistics

SEEDED = "random"  # an importance that is drawn anew for each seed


@dataclass(frozen=True)
class Arm:
    """importance, method, depth: as ``clone`` takes them. drawn: what is thrown away of the clone's weights, "all" or
    "directions" (every matrix drawn afresh with the mean and deviation that it had). taught: share of the loss that
    imitates the parent. schedule: "wsd", or "cosine" as a check of it. warmup: in steps; 0: the experiment's. long:
    whether it is tuned at B, as starts from nothing are. runs: the arm whose runs these are too, under that arm's name
    on disk: the two differ by how they are tuned. against: the arm that differs by one thing.
    """

    name: str
    importance: str = "paper"
    method: str = "paper"
    depth: str = "paper"
    drawn: str = ""
    taught: float = 0.0
    schedule: str = "wsd"
    warmup: int = 0
    long: bool = False
    runs: str = ""
    against: str = ""
    shows: str = ""

    @property
    def kept(self) -> str:
        """The name that its runs have on disk."""
        return self.runs or self.name

    @property
    def blind(self) -> bool:
        """Whether nothing measured of the parent is needed."""
        unmeasured = self.importance in ("first", "uniform", SEEDED) and self.method in ("none", "paper")
        return unmeasured and self.depth == "paper"

    @property
    def moments(self) -> bool:
        """Whether second moments are used: by least squares, and by this ranking of heads."""
        return self.importance == "equal-vote" or "least-squares" in self.method

    @property
    def nothing(self) -> bool:
        """Whether the arm starts from nothing of the parent's."""
        return bool(self.drawn)


BEST = ("equal-vote", "best", "best")  # ranking, correction, blocks
CORRECTED = "norm-gain+least-squares"  # what ``best`` is, but under pre-norm LayerNorms
ROWS: tuple[Arm, ...] = (
    Arm("random", "first", "none", drawn="all", shows="normal(0, 0.02), gains one, biases zero"),
    Arm("random-cosine", "first", "none", drawn="all", schedule="cosine", against="random", shows="the schedule"),
    Arm("random-warm", "first", "none", drawn="all", warmup=64, against="random", shows="a longer warm-up"),
    Arm("random-matched", drawn="directions", against="random", shows="deviations of each matrix"),
    Arm("warm-matched", drawn="directions", warmup=64, against="random-warm", shows="deviations of each matrix"),
    Arm(
        "warm-cosine",
        "first",
        "none",
        drawn="all",
        schedule="cosine",
        warmup=64,
        against="random-warm",
        shows="the schedule",
    ),
    Arm("first", "first", "none", against="paper-unscaled", shows="the first neurons instead of ranked ones"),
    Arm("uniform", "uniform", "none", against="paper-unscaled", shows="weight selection: every n-th neuron"),
    Arm("paper", shows="the paper exactly"),
    Arm("paper-long", long=True, runs="paper", against="paper", shows="rate and decay that suit a long run"),
    Arm("paper-random", SEEDED, against="paper", shows="ranking off: random neurons instead"),
    Arm("paper-unscaled", method="none", against="paper", shows="weight scaling off"),
    Arm("paper+vote", "equal-vote", against="paper", shows="the ranking alone"),
    Arm(
        "paper+gain", method="norm-gain", against="paper-unscaled", shows="the norm gain alone, which excludes scaling"
    ),
    Arm("paper+squares", method="paper+least-squares", against="paper", shows="least squares alone"),
    Arm("paper+influence", depth="block-influence", against="paper", shows="the depth rule alone: least influence"),
    Arm("paper+stride", depth="uniform", against="paper", shows="the depth rule alone: evenly spaced"),
    Arm("default", *BEST, against="paper", shows="graphclone as it comes: ranking, correction and blocks at once"),
    Arm(
        "corrected", BEST[0], CORRECTED, "best", against="default", shows="norms and products corrected, nothing scaled"
    ),
    Arm("corrected+middle", BEST[0], CORRECTED, "paper", against="corrected", shows="the middle blocks go"),
    Arm("default-corrections", "equal-vote", "none", "best", against="default", shows="without any correction"),
    Arm("default-squares", "equal-vote", "norm-gain", "best", against="default", shows="without least squares"),
    Arm("default-gain", "equal-vote", "least-squares", "best", against="default", shows="without the norm gain"),
    Arm("default+middle", *BEST[:2], "paper", against="default", shows="the middle blocks go"),
    Arm("default+stride", *BEST[:2], "uniform", against="default", shows="blocks evenly spaced stay"),
    Arm("default+patch", BEST[0], "best+depth-patch", "best", against="default", shows="the depth patch"),
    Arm("default+read-in", BEST[0], "best+read-in", "best", against="default", shows="readers of each norm refitted"),
    Arm(
        "default+both", BEST[0], "best+read-in+depth-patch", "best", against="default+read-in", shows="the patch beside"
    ),
    Arm("paper+read-in", method="paper+read-in", against="paper", shows="readers of each norm refitted"),
    Arm(
        "pca",
        BEST[0],
        "pca+least-squares",
        "best",
        against="default",
        shows="directions instead of neurons; an untied head",
    ),
    Arm("paper+taught", taught=0.5, against="paper", shows="half the loss imitates the parent"),
    Arm("default+taught", *BEST, taught=0.5, against="default", shows="half the loss imitates the parent"),
)
ARMS: dict[str, Arm] = {row.name: row for row in ROWS}
if len(ARMS) != len(ROWS) or any(row.against and row.against not in ARMS for row in ROWS):
    raise ValueError("an arm is listed twice, or set against one that there is not")
for row in ROWS:
    same = {name: getattr(row, name) for name in ("name", "long", "runs", "against", "shows")}
    if row.runs and replace(ARMS[row.runs], **same) != row:
        raise ValueError(f"{row.name} is started or trained otherwise than {row.runs}, whose runs it takes")


@dataclass(frozen=True)
class Source:
    """What clones are made from. statistics: measured when first asked for; affine: of the neurons that a plan keeps,
    where its method asks for it."""

    parent: Model
    anatomy: Anatomy
    statistics: Callable[[], Statistics]
    target: dict[str, int]
    affine: Callable[[Plan], Statistics | None]


def planned(arm: Arm, source: Source, seed: int) -> Plan:
    """What an arm keeps of the parent, and how it is corrected."""
    importance = f"{SEEDED}:{seed}" if arm.importance == SEEDED else arm.importance
    return pipeline.plan(
        source.anatomy,
        None if arm.blind else source.statistics(),
        Target(**source.target),  # type: ignore[arg-type]  # sizes alone
        importance=importance,
        method=arm.method,
        depth=arm.depth,
        weights=source.parent.constants(),
    )


def start(arm: Arm, source: Source, seed: int) -> Model:
    """The model that an arm begins to train from."""
    plan = planned(arm, source, seed)
    statistics = None if arm.blind else source.statistics()
    clone = pipeline.clone(source.parent, plan, statistics, anatomy=source.anatomy, affine=source.affine(plan))
    return pipeline.reinitialised(clone, seed) if arm.drawn == "all" else clone


def redrawn(module: nn.Module, afresh: nn.Module, seed: int) -> None:
    """Every matrix drawn with the mean and the deviation that it has in ``module``; vectors as in ``afresh``, whose
    parameters are the same ones, started from nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for held, started in zip(module.parameters(), afresh.parameters(), strict=True):
            if is_matrix(held):
                held.copy_(held.mean() + held.std() * torch.randn(held.shape, generator=generator))
            else:
                held.copy_(started)
