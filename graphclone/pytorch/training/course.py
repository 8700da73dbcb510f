"""Trains a Model: matches clone and teacher, trains the module, and runs its weights in the graph again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.training.batches import Array, Batch
from graphclone.pytorch.training.cache import Cache
from graphclone.pytorch.training.checkpoint import Checkpoints, gather, scatter
from graphclone.pytorch.training.examples import Example, Setting
from graphclone.pytorch.training.hidden import MUCH_DEPTH, Kinship, kinship, with_outputs
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.logs import Logs
from graphclone.pytorch.training.loop import Run, mean_loss, train
from graphclone.pytorch.training.options import TrainingOptions
from graphclone.pytorch.training.processes import Processes
from graphclone.pytorch.training.rehearsal import rehearse
from graphclone.pytorch.training.tasks import Task, find_task
from graphclone.pytorch.training.teacher import Teacher, refuse_other_vocabulary, refuse_other_width
from graphclone.pytorch.training.vocabulary import digest, rows, teachers_ids
from graphclone.pytorch.write_back import from_torch, marked
from graphclone.statistics.widening import HALVES, needed, widened
from graphclone.verification.sessions import open_session

Progress = Callable[[int, int, float], None]
ROUNDED = 5e-2  # relative difference of losses that half precision may make


@dataclass(frozen=True)
class Beside:
    """What goes on beside the updates. All of it is optional.

    teacher: a model to learn from; cache: a folder for what it says, top: how many tokens of it. tokenizer: where the
    mask token is found. read: the output that the task reads. shuffle: batches to draw rows from. data: a fingerprint
    of the batches. states: a folder to write states to, which ``resume`` goes on from. logs: a folder for TensorBoard.
    """

    teacher: Model | None = None
    cache: Path | None = None
    top: int = 64
    tokenizer: Path | None = None
    read: str | None = None
    shuffle: int = 0
    data: str = ""
    states: Path | None = None
    resume: bool = False
    logs: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Trained:
    """The model with its new weights; in_runtime: its held-out loss in ONNX Runtime, None where nothing is held out."""

    model: Model
    history: History
    in_runtime: float | None
    tolerance: float  # relative, of in_runtime to the last (or best) evaluation
    states: Checkpoints | None


def run(
    model: Model,
    batches: Iterable[Batch],
    options: TrainingOptions,
    beside: Beside,
    *,
    held_out: Iterable[Batch] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a clone; every process of a launcher calls this, and each gets the result.

    ``say`` is told what is not trained, in lines.

    Raises BadData for batches that do not run, InvalidTarget for a teacher that does not fit, TrainingDiverged.
    """
    task = find_task(options.task)
    if task.needs_teacher and beside.teacher is None:
        raise InvalidTarget(f"the task {task.name} learns from a teacher: give one (--teacher PARENT.onnx)")
    if beside.cache is not None and task.name == "masked-lm":
        raise InvalidTarget("a cache serves masked-lm nothing: masks are drawn anew in each step (leave --cache out)")
    states = None if beside.states is None else Checkpoints(beside.states, _identity(model, options, beside))
    if states is not None:
        states.refuse_leftovers(beside.resume)
    processes = Processes.start(options.precision)
    setting = _setting(model, task, beside)
    first, batches = _with_first(batches)
    setting, shape, sample = rehearse(model, beside.teacher, first, task, setting)
    kin = _kinship(model, beside.teacher, options)
    setting = _with_kept(setting, kin)
    ids = None if beside.teacher is None else teachers_ids(model, beside.teacher)
    teacher = _teacher(beside, task, setting, kin if _imitates(kin, options) else None, processes, ids)
    if teacher is not None:
        _refuse_other_sizes(teacher, task, setting, shape, sample)
    given = model if teacher is None else with_outputs(model, [pair.ours for pair in teacher.pairs])
    module = to_torch(_wide(given), options.dropout)
    notes = weights(module).notes()
    for line in notes:
        say(line)
    history = train(
        module,
        batches,
        options,
        held_out=held_out,
        progress=progress,
        setting=setting,
        teacher=teacher,
        processes=processes,
        checkpoints=states,
        logs=Logs(beside.logs),
        shuffle=beside.shuffle,
    )
    history.notes = notes
    trained = _packed(model, module, processes)
    within = Run(module, options, task, setting, teacher, processes)
    in_runtime = None if held_out is None else _in_runtime(trained, within, held_out)
    half = needed(model, HALVES)
    return Trained(trained, history, in_runtime, ROUNDED if half or options.precision == "bf16" else 1e-3, states)


def _wide(model: Model) -> Model:
    """Half precision is trained in float32, and rounded once, when its weights go back."""
    return widened(model, HALVES) if needed(model, HALVES) else model


def _packed(model: Model, module: torch.nn.Module, processes: Processes) -> Model:
    """The module's weights in the graph, which says so; shards are put together in a module of their own."""
    whole = module
    if processes.count > 1:
        whole = to_torch(_wide(model))
        scatter(whole, gather(module))
    return marked(model, from_torch(model, whole))


def _identity(model: Model, options: TrainingOptions, beside: Beside) -> dict[str, Any]:
    teacher = None if beside.teacher is None else beside.teacher.sha256
    data = {"data": beside.data, "shuffle": beside.shuffle, "read": beside.read}
    return {"model": model.sha256, "teacher": teacher, **data, **options.as_dict()}


def _setting(model: Model, task: Task, beside: Beside) -> Setting:
    outputs = tuple(tensor.name for tensor in model.graph.outputs)
    setting = Setting(outputs=outputs, output=beside.read)
    if task.name != "masked-lm":
        return setting
    from graphclone.statistics.packing import load_tokenizer, tokenizer_file

    file = tokenizer_file(beside.tokenizer, model)
    added = load_tokenizer(file).get_added_tokens_decoder()
    special = {number: token.content for number, token in added.items() if token.special}
    mask = next((n for n, content in special.items() if content.strip("<[|]>").lower() == "mask"), None)
    if mask is None:
        raise BadData(f"{file}: has no mask token among {', '.join(special.values()) or 'its special tokens (none)'}")
    return Setting(outputs, beside.read, mask, frozenset(special), rows(model))


def _with_first(batches: Iterable[Batch]) -> tuple[Batch, Iterable[Batch]]:
    """The first batch, and all of them still, where they can be gone through once alone too."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise BadData("no batch to train on: more is held out than there is")
    return first, chain([first], stream) if stream is batches else batches


def _kinship(model: Model, teacher: Model | None, options: TrainingOptions) -> Kinship | None:
    """What the clone's plan says of the teacher; where nothing asks for it, only if it says anything."""
    if teacher is None:
        return None
    try:
        return kinship(model, teacher)
    except InvalidTarget:
        if options.hidden_weight:
            raise
        return None


def _imitates(kin: Kinship | None, options: TrainingOptions) -> bool:
    """Whether hidden states are imitated."""
    if kin is None:
        return False
    return kin.dropped > MUCH_DEPTH if options.hidden_weight is None else options.hidden_weight > 0


def _with_kept(setting: Setting, kin: Kinship | None) -> Setting:
    return replace(setting, kept=None if kin is None else kin.kept)


def _teacher(
    beside: Beside,
    task: Task,
    setting: Setting,
    kin: Kinship | None,
    processes: Processes,
    ids: tuple[int, ...] | None,
) -> Teacher | None:
    if beside.teacher is None:
        return None
    cache = None
    if beside.cache is not None:
        what = f"{task.name} {setting.output or ''}" + digest(ids)
        cache = Cache.open(beside.cache, beside.teacher.sha256, beside.data, what, beside.top)
    return Teacher.open(
        beside.teacher,
        task,
        setting,
        pairs=() if kin is None else kin.pairs,
        cache=cache,
        device=processes.device,
        threads=beside.threads,
        ids=ids,
    )


def _refuse_other_sizes(
    teacher: Teacher, task: Task, setting: Setting, shape: tuple[int, ...], sample: Example
) -> None:
    """As little as can be run through the teacher, whatever its cache holds."""
    theirs = teacher.shape(sample)
    refuse_other_vocabulary(shape, theirs, task)
    refuse_other_width(shape, theirs, setting.kept, task)


def _in_runtime(trained: Model, within: Run, held_out: Iterable[Batch]) -> float:
    """The held-out loss of the graph itself, in float32 on the CPU: what the file will give."""
    session = open_session(trained)

    def forward(example: Example) -> Mapping[str, torch.Tensor]:
        results: dict[str, Array] = session.run(example.feeds)
        read = within.task.output(tuple(results), within.setting)
        wanted = results if within.task.teaches is None else {read: results[read]}
        return {n: torch.from_numpy(a.astype(np.float32)).to(within.processes.device) for n, a in wanted.items()}

    return mean_loss(forward, within, held_out)
