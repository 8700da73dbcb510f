"""Makes a trained file of a clone's file, which gets its name only after it has been examined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from graphclone import graph, outputs, saving
from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.pytorch.training.batches import hold_out
from graphclone.pytorch.training.checkpoint import Checkpoints
from graphclone.pytorch.training.course import Beside, Progress, Trained, run
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.labelled import Arrays, Folders, open_labelled
from graphclone.pytorch.training.options import TrainingOptions
from graphclone.pytorch.training.processes import Processes
from graphclone.pytorch.training.vocabulary import rows
from graphclone.statistics import request
from graphclone.statistics.calibration import Source
from graphclone.statistics.packing import tokenizer_beside
from graphclone.verification import Check, Report, verify_trained

SMALLEST = 0.1  # a loss below it is compared as if it were this large: cosines come near 0


@dataclass(frozen=True)
class Asked:
    """What the command line asks for. states: where the run keeps its state, by default ``OUTPUT.partial``."""

    clone: Path
    output: Path
    data: request.Calibration
    options: TrainingOptions
    teacher: Path | None = None
    held_out: int = 2
    cache: Path | None = None
    top: int = 64
    read: str | None = None
    shuffle: int = 0
    states: Path | None = None
    resume: bool = False
    logs: Path | None = None


@dataclass(frozen=True)
class Result:
    """``main``: whether this process wrote the output, and is the one to speak of it."""

    history: History
    report: Report
    in_runtime: float | None
    main: bool


def train_file(
    asked: Asked, *, progress: Progress | None = None, say: Callable[[str], None] = lambda line: None
) -> Result:
    """Do it; each process of a launcher calls this, the main one writes. ``say`` is told what is going on, in lines.

    Raises BadModel, BadData, InvalidTarget or UnsupportedGraph for what cannot be trained, TrainingDiverged, and
    VerificationFailed for a result that is not what training measured; the output is then not written.
    """
    read = (asked.data.data, asked.data.tokenizer, asked.data.images, asked.options.task)
    outputs.refuse_same_file(asked.output, asked.clone, asked.teacher, *read)
    outputs.refuse_unwritable(asked.output)
    model = graph.load(asked.clone)
    teacher = None if asked.teacher is None else graph.load(asked.teacher)
    for loaded in (model, teacher):
        outputs.refuse_same_file(asked.output, *(loaded.external_files if loaded else ()))
    asked = _with_tokenizer(asked, model, teacher)
    source = open_batches(model, asked.data, asked.options.task)
    kept, rest = hold_out(source, asked.held_out)
    if asked.held_out and len(kept) < asked.held_out:
        raise BadData(f"{asked.data.data}: {len(kept)} batches are fewer than the {asked.held_out} to be held out")
    processes = Processes.start(asked.options.precision)
    main = processes.main

    def told(line: str) -> None:
        if main:
            say(f"training: {line}")

    for line in lines(source):
        told(line)
    companions = beside(asked, teacher, source)
    trained = run(model, rest, asked.options, companions, held_out=kept or None, progress=progress, say=told)
    processes.leave()
    if not main:
        return Result(trained.history, Report(()), trained.in_runtime, main)
    report = _save(model, trained, asked)
    if trained.states is not None:
        trained.states.remove()
    return Result(trained.history, report, trained.in_runtime, main)


def _with_tokenizer(asked: Asked, model: Model, teacher: Model | None) -> Asked:
    """The teacher's tokenizer, where the clone has none of its own and as many tokens."""
    if teacher is None or asked.data.tokenizer or tokenizer_beside(model) or rows(model) != rows(teacher):
        return asked
    found = tokenizer_beside(teacher)
    return asked if found is None else replace(asked, data=replace(asked.data, tokenizer=str(found)))


def open_batches(model: Model, data: request.Calibration, task: str) -> Source | Folders | Arrays:
    """The data, with labels where the task wants them. Raises BadData."""
    if task == "image-classification":
        return open_labelled(data.data, model, batch_size=data.batch_size, images=data.images, limit=data.limit)
    return request.open_data(model, data)


def lines(source: Source | Folders | Arrays) -> list[str]:
    """What is trained on, for people."""
    if isinstance(source, Folders):
        return [f"{len(source.classes)} classes: {', '.join(source.classes[:10])}{' ...' * (len(source.classes) > 10)}"]
    return source.lines() if isinstance(source, Source) else []


def beside(asked: Asked, teacher: Model | None, source: Source | Folders | Arrays) -> Beside:
    """The run's companions, with the default place of its state."""
    states = asked.states or _states(asked.output)
    return Beside(
        teacher=teacher,
        cache=asked.cache,
        top=asked.top,
        tokenizer=None if asked.data.tokenizer is None else Path(asked.data.tokenizer),
        read=asked.read,
        shuffle=asked.shuffle,
        data=f"{source.fingerprint} {asked.data.limit or ''} {asked.held_out}",
        states=states,
        resume=asked.resume,
        logs=asked.logs,
        threads=asked.data.threads,
    )


def _states(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def stopped(output: Path) -> str:
    """What is left of a run that was interrupted, in words; a folder that is worth nothing goes."""
    return Checkpoints(_states(output), {}).stopped()


def _save(model: Model, trained: Trained, asked: Asked) -> Report:
    with outputs.staged(asked.output) as draft:
        saving.save(trained.model, draft)
        written = graph.load(draft)
        report = Report((*verify_trained(model, written).checks, _as_measured(trained, asked.options)))
        report.raise_if_failed()
    return report


def _as_measured(trained: Trained, options: TrainingOptions) -> Check:
    name = "held-out loss in ONNX Runtime"
    if trained.in_runtime is None:
        return Check.skipped(name, "nothing is held out")
    history = trained.history
    expected = history.best[1] if options.keep == "best" and history.best else history.evaluations[-1][1]
    apart = abs(trained.in_runtime - expected) / max(abs(expected), SMALLEST)
    detail = f"{trained.in_runtime:.4f}, in training {expected:.4f}"
    return Check.measured(name, apart, trained.tolerance, detail)
