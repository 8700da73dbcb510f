"""SmolLM2-135M cut to a tenth, verified, and trained beside a twin of the same shape that starts from nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphclone import pipeline
from graphclone.demo import evaluation
from graphclone.demo.results import Arm, Results
from graphclone.errors import GraphCloneError
from graphclone.statistics import request
from graphclone.verification.sessions import latency

if TYPE_CHECKING:
    from graphclone.graph import Model
    from graphclone.planner import Target
    from graphclone.verification import Report

Batches = list[Mapping[str, np.ndarray[Any, Any]]]

SHAPE: dict[str, Any] = {"hidden": 192, "heads": 3, "kv_heads": 1, "ffn": 512, "layers": 10}
LENGTH, BATCH_SIZE = 128, 8
HELD_OUT_EVERY, HELD_OUT_FROM = 25, 10  # of the batches in reading order: spread over the text, never measured on
CALIBRATION_BATCHES = 4
LEARNING_RATE = {"clone": 3e-3, "twin": 2e-3}
WEIGHT_DECAY = {"clone": 0.01, "twin": 0.1}  # as the paper: little for inherited weights, much for random ones
PROBE_STEPS = 2
MOST_STEPS = 300
EVALUATION_SHARE = 0.15  # of the training time, about: held-out loss at every evaluation


@dataclass(frozen=True)
class Settings:
    """``minutes``: what training both arms may take; the number of steps follows from the speed of the machine."""

    folder: Path
    minutes: float = 6.0
    steps: int | None = None
    evaluations: int = 12
    held_out: int = 4
    seed: int = 0


def quick(settings: Settings) -> Settings:
    """A few steps and little to evaluate: shows that everything works, not what it brings."""
    return replace(settings, steps=settings.steps or 4, evaluations=2, held_out=1)


@dataclass
class Clock:
    """Seconds by stage, in order."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Say what is going on, then note how long it took."""
        self.say(f"{name}: {what}")
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class RecipesMissing(GraphCloneError):
    """The recipes in models/ are not beside the package."""


def run(settings: Settings, say: Callable[[str], None]) -> tuple[Results, Report]:
    """The whole story; files go to ``settings.folder``. Raises VerificationFailed where the clone is not as planned."""
    clock = Clock(say)
    with clock.stage("parent", "SmolLM2-135M as ONNX"):
        parent_file, tokenizer = _parent(say)
        parent = pipeline.load(parent_file)
        anatomy = pipeline.inspect(parent)
    training, held_out = _split(parent, tokenizer, settings)
    with clock.stage("measure", f"{CALIBRATION_BATCHES * BATCH_SIZE * LENGTH:,} tokens through the parent"):
        stats = pipeline.measure(parent, training[:CALIBRATION_BATCHES], anatomy=anatomy)
    with clock.stage("clone", ", ".join(f"{name} {size}" for name, size in SHAPE.items())):
        plan = pipeline.plan(anatomy, stats, _target())
        file = settings.folder / "clone.onnx"
        report = pipeline.save_verified(parent, pipeline.clone(parent, plan, stats, anatomy=anatomy), file, plan)
        clone = pipeline.load(file)
    twin = pipeline.reinitialised(clone, settings.seed)
    with clock.stage("evaluate", f"{len(held_out) * BATCH_SIZE * LENGTH:,} held-out tokens, and latency"):
        arms = {
            "SmolLM2-135M": _arm("SmolLM2-135M", parent, parent_file, held_out),
            "clone": _arm("clone", clone, file, held_out),
            "twin": _arm("random twin", twin, file, held_out),
        }
    steps = settings.steps or _affordable(clone, training, settings, clock)
    for key, model in (("clone", clone), ("twin", twin)):
        with clock.stage("train", f"the {arms[key].name}, {steps} steps at learning rate {LEARNING_RATE[key]}"):
            arms[key], trained = _trained(key, arms[key], model, (training, held_out), steps, settings, say)
            if key == "clone":
                pipeline.save(trained, settings.folder / "trained.onnx")
    with clock.stage("write back", "trained.onnx in ONNX Runtime"):
        in_runtime = evaluation.loss(pipeline.load(settings.folder / "trained.onnx"), held_out)
    tokens = BATCH_SIZE * LENGTH
    results = Results(arms["SmolLM2-135M"], arms["clone"], arms["twin"], in_runtime, tokens, clock.seconds)
    results.save(settings.folder)
    return results, report


def _parent(say: Callable[[str], None]) -> tuple[Path, Path]:
    """The parent's file and its tokenizer, built once and kept in the cache of the recipes."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "models" / "__init__.py").is_file() and str(checkout) not in sys.path:
        sys.path.append(str(checkout))  # the installed command does not look there, `python -m graphclone` may
    try:
        import models
    except ImportError:
        raise RecipesMissing(
            "the demo builds its parent with the recipes in models/: run it from a checkout of graphclone (make demo)"
        ) from None
    file = models.cached("smollm2", progress=say)
    return file, models.tokenizer_beside(file)


def _target() -> Target:
    from graphclone.planner import Target

    return Target(**SHAPE)


def _split(parent: Model, tokenizer: Path, settings: Settings) -> tuple[Batches, Batches]:
    """Batches of Python's language reference: (training, in an order drawn from the seed; held out)."""
    asked = request.Calibration("python-docs", str(tokenizer), LENGTH, BATCH_SIZE)
    full: Batches = [batch for batch in request.open_data(parent, asked) if len(batch["input_ids"]) == BATCH_SIZE]
    held_out = full[HELD_OUT_FROM::HELD_OUT_EVERY][: settings.held_out]
    training = [batch for i, batch in enumerate(full) if i % HELD_OUT_EVERY != HELD_OUT_FROM]
    order = np.random.default_rng(settings.seed).permutation(len(training))
    return [training[i] for i in order], held_out


def _arm(name: str, model: Model, file: Path, held_out: Batches) -> Arm:
    first = {key: array[:1] for key, array in held_out[0].items()}
    return Arm(
        name=name,
        parameters=pipeline.inspect(model).parameters,
        size=file.stat().st_size,
        latency=latency(model, first),
        loss_before=evaluation.loss(model, held_out),
    )


def _affordable(clone: Model, training: Batches, settings: Settings, clock: Clock) -> int:
    """Steps that both arms can take in the minutes given, from the time of a few that are thrown away."""
    from graphclone.pytorch.training import TrainingOptions

    with clock.stage("train", f"timing {PROBE_STEPS} steps"):
        _, warm = pipeline.train(clone, training, TrainingOptions(steps=1))
        _, history = pipeline.train(clone, training, TrainingOptions(steps=PROBE_STEPS))
    one = min(history.seconds / PROBE_STEPS, warm.seconds)
    each = 60 * settings.minutes * (1 - EVALUATION_SHARE) / 2
    return int(min(max(each / one, settings.evaluations), MOST_STEPS))


def _trained(
    key: str,
    arm: Arm,
    model: Model,
    data: tuple[Batches, Batches],
    steps: int,
    settings: Settings,
    say: Callable[[str], None],
) -> tuple[Arm, Model]:
    """One arm, trained and written back, with its curve on the held-out batches."""
    from graphclone.pytorch.training import TrainingOptions

    training, held_out = data
    options = TrainingOptions(
        steps=steps,
        learning_rate=LEARNING_RATE[key],
        weight_decay=WEIGHT_DECAY[key],
        evaluate_every=max(1, steps // settings.evaluations),
        seed=settings.seed,
    )

    def tick(done: int, total: int, loss: float) -> None:
        if done % options.evaluate_every == 0:
            say(f"train: {arm.name}, step {done} of {total}, loss {loss:.2f} on its batch")

    result, history = pipeline.train(model, training, options, held_out=held_out, progress=tick)
    done, losses = zip(*history.evaluations, strict=True)
    return replace(arm, loss_after=losses[-1], learning_rate=options.learning_rate, steps=done, losses=losses), result
