"""Runs one row in ONNX Runtime before anything is trained: does the task suit the model and its data?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from graphclone.causality import tells_next
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.pytorch.training.batches import Batch, rows_of
from graphclone.pytorch.training.examples import LABELS, Example, Setting
from graphclone.pytorch.training.tasks import Task
from graphclone.pytorch.training.vocabulary import rows
from graphclone.verification.sessions import open_session

RANDOM = np.random.default_rng  # of the one example that shapes are learnt from


def _fixed_rows(models: Iterable[Model | None], example: Example) -> int | None:
    """Rows of the only batches that one of the graphs takes, where that are several."""
    taken = (t.shape[0] for m in models if m for t in m.graph.inputs if t.name in example.feeds and t.shape)
    return next((rows for rows in taken if isinstance(rows, int) and rows > 1), None)


def rehearse(
    model: Model, teacher: Model | None, first: Batch, task: Task, setting: Setting
) -> tuple[Setting, tuple[int, ...], Example]:
    """Run the first row, or the first batch where a graph fixes its rows, in ONNX Runtime: the output's shape.

    Raises BadData, in a line, where a model cannot take it.
    """
    whole = task.example(first, setting, RANDOM(0))
    fixed = _fixed_rows((model, teacher), whole)
    sample = whole.first_row() if fixed is None else whole
    output = task.output(setting.outputs, setting)
    try:
        shape = open_session(model).run(sample.feeds)[output].shape
    except UnsupportedGraph as reason:
        shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in first.items())
        fits = "a smaller --length" if fixed in (None, rows_of(first)) else f"--batch-size {fixed}"
        raise BadData(f"a batch ({shapes}) does not run: {fits} may fit ({reason})") from None
    if task.name == "image-classification":
        setting = replace(setting, vocabulary=int(shape[-1]))
    if task.name in ("causal-lm", "masked-lm"):
        _refuse_no_logits(model, task, output, tuple(shape))
        setting = replace(setting, classes=int(shape[-1]))
    if task.name == "causal-lm" and LABELS not in first:
        _refuse_looking_ahead(model, output, sample)
    return setting, tuple(shape), sample


def _refuse_no_logits(model: Model, task: Task, output: str, shape: tuple[int, ...]) -> None:
    """An output that is taken for want of another may be hidden states. Raises BadData."""
    known = rows(model)
    if output not in task.usual and known is not None and shape[-1] < known:
        raise BadData(
            f"the output {output} has {shape[-1]:,} numbers a token, the model knows {known:,} tokens: these are no "
            f"logits, as the task {task.name} needs; another output (--read), or another task (--task embedding)?"
        )


def _refuse_looking_ahead(model: Model, output: str, sample: Example) -> None:
    """A token that can be seen is not to be predicted. Raises InvalidTarget."""
    if any(np.ndim(fed) > 2 for fed in sample.feeds.values()):
        return  # a mask of pairs, which may be what hides later tokens, is fed
    try:
        ahead = tells_next(model, output) is False
    except UnsupportedGraph:
        return  # it runs on the data, which is what counts
    if ahead:
        raise InvalidTarget(
            f"the task causal-lm predicts the next token, and {output} of this model sees later tokens: it is no "
            "causal model; give --task masked-lm (or embedding, or labels in the batches)"
        )
