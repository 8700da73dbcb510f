"""Tasks that a clone is trained for: a table of them, and functions of the user's own.

A task turns a batch into an Example (what the graph is fed, what is expected of it) and outputs into a loss. The output
is the one asked for, the usual one, or the only one.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.pytorch.training import examples, losses
from graphclone.pytorch.training.batches import Batch
from graphclone.pytorch.training.examples import Example, Setting
from graphclone.pytorch.training.losses import Taught
from graphclone.statistics import callables

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Expected:
    """An example's expectations as tensors, beside what the teacher says."""

    targets: torch.Tensor | None
    seen: torch.Tensor | None
    batch: Tensors
    taught: Taught | None
    setting: Setting


@dataclass(frozen=True)
class Task:
    """A row. ``teaches``: what a teacher's output is taken for (logits, embedding), or None.

    ``hears_teacher``: its own loss is made of what a teacher says, where there is one.
    """

    name: str
    what: str
    usual: tuple[str, ...]
    example: Callable[[Batch, Setting, np.random.Generator], Example]
    loss: Callable[[Task, Tensors, Expected], torch.Tensor]
    teaches: str | None
    needs_teacher: bool = False
    hears_teacher: bool = False

    def output(self, outputs: Sequence[str], setting: Setting) -> str:
        """Name of the output that is read. Raises BadData where it cannot be told."""
        own = [name for name in outputs if not setting.outputs or name in setting.outputs]
        if setting.output is not None:
            if setting.output not in own:
                raise BadData(f"no output is called {setting.output}: the model gives {', '.join(own)}")
            return setting.output
        found = next((name for name in self.usual if name in own), own[0] if len(own) == 1 else None)
        if found is None:
            raise BadData(
                f"no output is called {self.usual[0]}: the model gives {', '.join(own)}; name one "
                f"(--read), or is it made for another task than {self.name}?"
            )
        return found

    def read(self, outputs: Tensors, setting: Setting) -> torch.Tensor:
        """The output that the task reads; a model that gives one tensor gives that one."""
        return outputs[self.output(tuple(outputs), setting)]


def _entropy(task: Task, outputs: Tensors, expected: Expected) -> torch.Tensor:
    assert expected.targets is not None
    return losses.cross_entropy(task.read(outputs, expected.setting), expected.targets)


def _to_teacher(task: Task, outputs: Tensors, expected: Expected) -> torch.Tensor:
    taught = expected.taught
    if taught is None or taught.output is None:
        raise InvalidTarget("the task embedding learns from a teacher: give one (--teacher PARENT.onnx)")
    ours = losses.pooled(task.read(outputs, expected.setting), expected.seen)
    theirs, kept = taught.output, expected.setting.kept
    if theirs.shape[-1] != ours.shape[-1] and kept is not None:
        theirs = theirs[..., list(kept)]
    return losses.embedding_distance(ours, theirs)


LOGITS = ("logits", "output_logits", "prediction_scores")
EMBEDDINGS = (
    "sentence_embedding", "embedding", "embeddings", "image_embeds", "text_embeds", "pooler_output",
    "last_hidden_state",
)  # fmt: skip
TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task("causal-lm", "the next token", LOGITS, examples.causal, _entropy, "logits"),
        Task("masked-lm", "hidden tokens", LOGITS, examples.masked, _entropy, "logits"),
        Task("image-classification", "the class", LOGITS, examples.classified, _entropy, "logits"),
        Task(
            "embedding",
            "the teacher's embedding",
            EMBEDDINGS,
            examples.embedded,
            _to_teacher,
            "embedding",
            needs_teacher=True,
            hears_teacher=True,
        ),
    )
}


@dataclass(frozen=True)
class _UserLoss:
    """A user's function: (outputs by name, batch by name; ``teacher`` in it where there is one) -> mean loss."""

    spec: str
    function: Callable[[Tensors, Tensors], torch.Tensor] = field(repr=False)

    def __call__(self, task: Task, outputs: Tensors, expected: Expected) -> torch.Tensor:
        batch = dict(expected.batch)
        if expected.taught is not None and expected.taught.output is not None:
            batch["teacher"] = expected.taught.output
        try:
            loss = self.function(outputs, batch)
        except GraphCloneError:
            raise
        except Exception as reason:
            last = traceback.extract_tb(reason.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            raise BadData(f"{self.spec}: {type(reason).__name__}: {reason} ({where})") from reason
        if getattr(loss, "shape", None) != ():
            raise InvalidTarget(
                f"{self.spec} has to return one number as a tensor (a mean over rows), not {type(loss)}"
            )
        return loss


def find_task(name: str) -> Task:
    """A row of TASKS, or a function by file.py:function or module:function, from the current folder or the environment.

    Raises InvalidTarget.
    """
    if name in TASKS:
        return TASKS[name]
    if not callables.fits(name):
        raise InvalidTarget(f"task {name!r} is not one of {', '.join(TASKS)}, nor module:function or file.py:function")
    before = list(sys.path)
    try:
        found, _ = callables.find(name)
    except BadData as reason:
        raise InvalidTarget(f"task {reason}") from None
    finally:
        sys.path[:] = before
    return Task(name, f"your function {name}", LOGITS, examples.whole, _UserLoss(name, found), None, hears_teacher=True)
