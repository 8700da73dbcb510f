"""The loop: update after update, on one process or many, with evaluations, states to go on from, and curves.

The same seed, module and batches give the same curve, whether or not the run was killed on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from graphclone.errors import BadData
from graphclone.pytorch.training import losses
from graphclone.pytorch.training.batches import Array, Batch, Stream
from graphclone.pytorch.training.checkpoint import Checkpoints, Progress, Tensors, gather, scatter
from graphclone.pytorch.training.examples import Example, Setting
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.logs import Logs
from graphclone.pytorch.training.losses import Taught
from graphclone.pytorch.training.optimiser import adamw
from graphclone.pytorch.training.options import TrainingDiverged, TrainingOptions
from graphclone.pytorch.training.processes import Processes, release
from graphclone.pytorch.training.tasks import Expected, Task, find_task
from graphclone.pytorch.training.teacher import Teacher
from graphclone.statistics.widening import narrow

HELD_OUT = 1 << 40  # a step that no run reaches: masks of held-out batches are drawn as if in it


@dataclass
class Run:
    """A module in training, and all that it is trained with."""

    module: nn.Module
    options: TrainingOptions
    task: Task
    setting: Setting
    teacher: Teacher | None
    processes: Processes
    checkpoints: Checkpoints | None = None
    logs: Logs = field(default_factory=lambda: Logs(None))
    history: History = field(default_factory=History)
    best: Tensors | None = None

    def forward(self, example: Example) -> dict[str, torch.Tensor]:
        """Outputs by name, on the module's device."""
        first = next(self.module.parameters(), None)
        wide = first is not None and first.dtype == torch.float32  # as half precision is trained
        fed = {
            name: array.astype(np.float32) if wide and narrow(array.dtype) else array
            for name, array in arguments(self.module, example.feeds).items()
        }
        with self.processes.autocast():
            outputs = self.module(**{name: to_device(array, self.processes.device) for name, array in fed.items()})
        return {"logits": outputs} if isinstance(outputs, torch.Tensor) else outputs

    def update(self, step: int, batches: Sequence[Batch]) -> tuple[float, int]:
        """Gradients of one update: the loss over all its batches and processes, and how many targets it counts."""
        examples = [
            self.task.example(batch, self.setting, _generator(self.options.seed, step, k))
            for k, batch in enumerate(batches)
        ]
        totals = sum(e.count for e in examples), sum(e.places for e in examples)
        value = 0.0
        for k, example in enumerate(examples):
            self.processes.synchronised(self.module, k == len(examples) - 1)
            loss = self._loss(example.share(self.processes.index, self.processes.count), step, totals)
            value += loss.item()
            self.processes.backward(loss)
        return self.processes.total(value)[0] / self.processes.count, totals[0]

    def _loss(self, example: Example, step: int, totals: tuple[int, int]) -> torch.Tensor:
        """This process's part of the loss, so that the mean over processes is the mean over the whole update."""
        imitate = self.options.hidden(step, self._hidden_weight)
        taught = self.teacher(example, hidden=imitate > 0) if self.teacher is not None else None
        outputs = self.forward(example)
        expected = self.expect(example, taught)
        processes = self.processes.count * example.weight
        own, places = processes * example.count / totals[0], processes * example.places / totals[1]
        share = self.options.teacher_weight if taught is not None and self.task.teaches == "logits" else 0.0
        parts: list[torch.Tensor] = []
        if share < 1:
            parts.append(self.task.loss(self.task, outputs, expected) * ((1 - share) * own))
        if taught is not None and share > 0:
            logits = self.task.read(outputs, self.setting)
            parts.append(losses.divergence(logits, taught, expected.seen) * (share * places))
        if taught is not None and taught.hidden and self.teacher is not None:
            ours = [outputs[pair.ours] for pair in self.teacher.pairs]
            parts.append(losses.hidden_distance(ours, taught.hidden, expected.seen) * (imitate * places))
        return sum(parts[1:], parts[0])

    @property
    def _hidden_weight(self) -> float:
        if self.teacher is None or not self.teacher.pairs:
            return 0.0
        return 1.0 if self.options.hidden_weight is None else self.options.hidden_weight

    def expect(self, example: Example, taught: Taught | None) -> Expected:
        """The example's expectations as tensors on the device."""
        device = self.processes.device
        return Expected(
            None if example.targets is None else to_device(example.targets, device),
            None if example.seen is None else to_device(example.seen, device),
            {name: to_device(np.asarray(held), device) for name, held in example.batch.items()},
            taught,
            self.setting,
        )

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """The task's own loss over held-out batches, mean over what counts."""
        training = self.module.training
        self.module.eval()
        with torch.no_grad():
            found = mean_loss(self.forward, self, batches)
        self.module.train(training)
        return found

    def evaluated(self, step: int, held_out: Iterable[Batch]) -> None:
        """Evaluate, note it, and keep the weights where they are the best."""
        loss = self.evaluate(held_out)
        self.logs.add(step, heldout_loss=loss)
        if self.history.evaluated(step, loss) and self.options.keep == "best":
            self.best = gather(self.module)
            if self.checkpoints is not None and self.processes.main:
                self.checkpoints.save_best(self.best)


def mean_loss(forward: Callable[[Example], Mapping[str, torch.Tensor]], run: Run, batches: Iterable[Batch]) -> float:
    """The task's own loss of whatever ``forward`` runs, over all batches and processes."""
    total, count = 0.0, 0
    for number, batch in enumerate(batches):
        whole = run.task.example(batch, run.setting, _generator(run.options.seed, HELD_OUT, number))
        example = whole.share(run.processes.index, run.processes.count)
        taught = run.teacher(example) if run.teacher is not None and run.task.hears_teacher else None
        loss = run.task.loss(run.task, forward(example), run.expect(example, taught))
        counted = example.count * example.weight
        total, count = total + loss.item() * counted, count + counted
    total, counts = run.processes.total(total, count)
    if not counts:
        raise BadData("nothing to evaluate on: no batch, or no token to predict")
    return total / counts


def train(
    module: nn.Module,
    batches: Iterable[Batch],
    options: TrainingOptions,
    *,
    held_out: Iterable[Batch] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    setting: Setting | None = None,
    teacher: Teacher | None = None,
    processes: Processes | None = None,
    checkpoints: Checkpoints | None = None,
    logs: Logs | None = None,
    shuffle: int = 0,
) -> History:
    """Train in place. ``batches``: NumPy arrays (or tensors) by the graph's input names, a row a sequence or image.

    held_out: evaluated before, every ``options.evaluate_every`` steps, and after. ``progress(steps done, steps, loss)``
    is called after each step. checkpoints: where states are written, and gone on from. shuffle: see batches.Stream.

    Raises BadData for batches that the task cannot be made from, and TrainingDiverged, leaving the weights as they
    were before the update, when a loss or gradient is not finite.
    """
    task = find_task(options.task)
    processes = processes or Processes.start(options.precision)
    run = Run(module, options, task, setting or Setting(), teacher, processes, checkpoints, logs or Logs(None))
    processes.place(module, compiled=options.compile, recompute=options.recompute)
    try:
        _train(run, Stream(batches, shuffle, options.seed), held_out, progress)
        if options.keep == "best" and run.best is not None:
            scatter(module, run.best)
    finally:
        run.logs.close()
        release(module)
    return run.history


def _train(
    run: Run,
    stream: Stream,
    held_out: Iterable[Batch] | None,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    options, optimizer = run.options, adamw(run.module, run.options)
    restored = run.checkpoints.restore(run.module, optimizer) if run.checkpoints is not None else None
    at = Progress(0, 0, None, run.history) if restored is None else restored[0]
    run.history, run.best = at.history, None if restored is None else restored[1]
    stream.length = at.length
    if run.processes.main:
        run.logs.start(0 if restored is None else at.step + 1)
    if held_out is not None and restored is None:
        run.evaluated(0, held_out)
    run.module.train()
    started, before = time.monotonic(), run.history.seconds
    source = stream.starting_at(at.position)
    for step in range(at.step, options.steps):
        torch.manual_seed(_seed(options.seed, step, run.processes.index))
        position = stream.taken
        try:
            value = _step(run, optimizer, step, list(islice(source, options.accumulation)))
        except TrainingDiverged as reason:
            raise _kept(run, optimizer, Progress(step, position, stream.length, run.history), reason) from None
        due = options.evaluate_every and (step + 1) % options.evaluate_every == 0
        if held_out is not None and (due or step + 1 == options.steps):
            run.evaluated(step + 1, held_out)
        run.history.seconds = before + time.monotonic() - started
        if run.checkpoints is not None and options.checkpoint_every and (step + 1) % options.checkpoint_every == 0:
            here = Progress(step + 1, stream.taken, stream.length, run.history)
            run.logs.flush()
            run.checkpoints.save(run.module, optimizer, here, run.processes)
        if progress is not None and run.processes.main:
            progress(step + 1, options.steps, value)


def _kept(run: Run, optimizer: torch.optim.Optimizer, at: Progress, reason: TrainingDiverged) -> TrainingDiverged:
    """The same refusal, saying where the last good weights are: those of the newest state, or of this moment."""
    if run.checkpoints is None:
        return reason
    if run.checkpoints.newest() is None:
        run.checkpoints.save(run.module, optimizer, at, run.processes)
    return TrainingDiverged(f"{reason}; the last state written is {run.checkpoints.newest()}, its weights for `pack`")


def _step(run: Run, optimizer: torch.optim.Optimizer, step: int, batches: Sequence[Batch]) -> float:
    rate = run.options.rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    runs = run.teacher.runs if run.teacher is not None else 0
    value, count = run.update(step, batches)
    if not math.isfinite(value):
        raise TrainingDiverged(f"the loss is {value} at step {step + 1}: try a lower learning rate")
    held = nn.utils.clip_grad_norm_(run.module.parameters(), run.options.clip)
    norm = float(held.full_tensor() if isinstance(held, DTensor) else held)
    if not math.isfinite(norm):
        raise TrainingDiverged(f"the gradient's norm is {norm} at step {step + 1}: try a lower learning rate")
    optimizer.step()
    run.history.losses.append(value)
    run.history.gradient_norms.append(norm)
    run.history.tokens += count
    run.history.taught += (run.teacher.runs if run.teacher is not None else 0) - runs
    run.logs.add(step + 1, train_loss=value, train_rate=rate, train_gradient=norm)
    return value


def evaluate(
    module: nn.Module,
    batches: Iterable[Batch],
    task: str = "causal-lm",
    *,
    setting: Setting | None = None,
    teacher: Teacher | None = None,
) -> float:
    """A task's own loss over all batches, where the module is: nats a token for language models."""
    options = TrainingOptions(steps=1, task=task)
    run = Run(module, options, find_task(task), setting or Setting(), teacher, Processes.start())
    run.module.to(run.processes.device)
    return run.evaluate(batches)


def arguments(module: nn.Module, fed: Mapping[str, Array]) -> dict[str, Array]:
    """What the module takes of the feeds, by the names of its arguments. Raises BadData where one is not there."""
    taken = getattr(module, "meta", {}).get("graphclone.inputs")
    named = {name: name for name in fed} if taken is None else taken
    missing = sorted(set(named) - set(fed))
    if missing:
        raise BadData(f"the module's input {', '.join(missing)} is not in the batch ({', '.join(sorted(fed))})")
    return {argument: fed[name] for name, argument in named.items()}


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """A tensor of an array, on the device."""
    return torch.as_tensor(array).to(device)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)
