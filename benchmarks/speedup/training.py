"""One run: a trunk at a constant rate, and from it a branch of its own full decay for each horizon (WSD).

The module is ``graphclone.to_torch`` of the start, the optimizer graphclone's own (AdamW, decay on matrices alone); the
loop around them is this one, because branches leave a run and come back to it. docs/decisions/0020 says why branches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.speedup.config import Config
from benchmarks.speedup.curves import Curve
from benchmarks.speedup.prepared import Rows, Task, Tensors
from graphclone.pytorch.training.optimiser import adamw
from graphclone.pytorch.training.options import TrainingOptions

JUDGED_AT_ONCE = 64  # rows
CLIP = 1.0
LEAST = 0.1  # of the rate, at the end of a cosine


# (output, rows of the training data, the task's own loss) -> the loss that is minimised
Imitate = Callable[[torch.Tensor, np.ndarray[Any, Any], torch.Tensor], torch.Tensor]


@dataclass
class Learner:
    """A module in training, on the rows that its seed draws. imitate: what the parent teaches beside the task."""

    module: nn.Module
    task: Task
    config: Config
    rate: float
    decay: float
    train: Rows
    held_out: Rows
    seed: int
    imitate: Imitate | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.module.to(self.device).train()
        options = TrainingOptions(steps=1, learning_rate=self.rate, weight_decay=self.decay)
        self.optimizer = adamw(self.module, options)
        rows = len(next(iter(self.train.values())))
        self.order = np.concatenate(list(_orders(rows, self.seed, self.config.budget * self.config.batch)))

    def tensors(self, rows: Rows, chosen: slice | np.ndarray[Any, Any]) -> Tensors:
        """Rows on the device."""
        return {name: torch.from_numpy(array[chosen]).to(self.device) for name, array in rows.items()}

    def output(self, rows: Tensors) -> torch.Tensor:
        """What the task's loss reads, in float32."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            found: torch.Tensor = self.module(**{name: rows[name] for name in self.task.inputs})
        return found.float()

    def step(self, step: int, share: float) -> None:
        """One update, on the rows that this seed has at this step. A loss that is no number leaves the weights."""
        size = self.config.batch
        rows = self.tensors(self.train, self.order[step * size : (step + 1) * size])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share
        self.optimizer.zero_grad(set_to_none=True)
        output = self.output(rows)
        loss = self.task.loss(output, rows)
        if self.imitate is not None:
            loss = self.imitate(output, self.order[step * size : (step + 1) * size], loss)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()

    def judge(self) -> float:
        """Mean loss over the rows held out; infinite where it is no number."""
        self.module.eval()
        count = len(next(iter(self.held_out.values())))
        total = 0.0
        with torch.no_grad():
            for k in range(0, count, JUDGED_AT_ONCE):
                rows = self.tensors(self.held_out, slice(k, k + JUDGED_AT_ONCE))
                total += float(self.task.loss(self.output(rows), rows)) * min(JUDGED_AT_ONCE, count - k)
        self.module.train()
        return total / count if math.isfinite(total) else math.inf

    def kept(self) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        """Weights and the optimizer's state, in memory of their own."""
        state = {name: held.detach().clone() for name, held in self.module.state_dict().items()}
        return state, copy.deepcopy(self.optimizer.state_dict())

    def restore(self, state: tuple[dict[str, torch.Tensor], dict[str, object]]) -> None:
        """The inverse of ``kept``."""
        self.module.load_state_dict(state[0])
        self.optimizer.load_state_dict(copy.deepcopy(state[1]))


def _orders(rows: int, seed: int, wanted: int) -> Iterator[np.ndarray[Any, Any]]:
    """Permutations of all rows, enough of them."""
    for number in range(-(-wanted // rows)):
        yield np.random.default_rng([seed, number]).permutation(rows)


def stable(config: Config, horizon: int) -> int:
    """Steps of a horizon before its decay; the warm-up is among them."""
    return horizon - max(1, round(config.decay * horizon))


def trunk_share(config: Config, step: int) -> float:
    """Of the rate, at a step counted from 0: it rises over the warm-up and stays."""
    return min(1.0, (step + 1) / config.warmup)


def branch_share(config: Config, step: int, horizon: int) -> float:
    """1 - sqrt of the part of the decay that is over (arXiv 2405.18392), never 0; warm-up where a horizon is short."""
    start = stable(config, horizon)
    late = (step - start + 1) / (horizon - start + 1)
    return (1 - math.sqrt(late)) * trunk_share(config, step)


def branches(learner: Learner, horizons: Sequence[int], say: Callable[[str], None] = lambda text: None) -> Curve:
    """The curve of a run with a branch for each of the horizons, shortest first."""
    config = learner.config
    curve = Curve()
    wanted = sorted(horizons)
    last = stable(config, wanted[-1])
    points = _points(config, last)
    for step in range(last + 1):
        if step in points:
            curve.trunk[step] = learner.judge()
        for horizon in [h for h in wanted if stable(config, h) == step]:
            state = learner.kept() if horizon != wanted[-1] else None
            for late in range(step, horizon):
                learner.step(late, branch_share(config, late, horizon))
            curve.ends[horizon] = learner.judge()
            say(f"{horizon}: {curve.ends[horizon]:.4f}")
            if state is not None:
                learner.restore(state)
        if step < last:
            learner.step(step, trunk_share(config, step))
    return curve


def _points(config: Config, last: int) -> set[int]:
    """Steps at which the trunk is judged: the start, then at equal ratios."""
    first = max(1, config.budget // 64)
    ratios = np.geomspace(first, max(first, last), config.evaluations)
    return {0, *(round(float(p)) for p in ratios)}


def cosine(learner: Learner, horizons: Sequence[int], say: Callable[[str], None] = lambda text: None) -> Curve:
    """One run whose rate falls along a cosine from the warm-up on: the check of the schedule. One horizon alone."""
    (horizon,) = horizons
    config = learner.config
    curve = Curve({}, {0: learner.judge()})
    for step in range(horizon):
        done = max(0.0, (step - config.warmup) / max(1, horizon - config.warmup))
        share = LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * done))
        learner.step(step, share * trunk_share(config, step))
    curve.ends[horizon] = learner.judge()
    say(f"{horizon}: {curve.ends[horizon]:.4f}")
    return curve
