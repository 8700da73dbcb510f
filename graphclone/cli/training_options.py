"""The options of `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_UPDATES, _TEACHER, _RUN = "Updates", "Teacher", "Run"

TASK = (
    "causal-lm, masked-lm, image-classification, embedding, or your own function (outputs, batch) -> loss: "
    "module:function, file.py:function."
)
DATA = "As for `measure`; for image-classification a folder of class folders, or .npz with labels."
Task = Annotated[str, typer.Option("--task", help=TASK)]
TrainingData = Annotated[str, typer.Option("--data", help=DATA, show_default=False)]
Read = Annotated[
    str | None,
    typer.Option(
        "--read",
        metavar="OUTPUT",
        help="The graph's output that the task reads, where several could be meant.",
        show_default=False,
    ),
]
Shuffle = Annotated[int, typer.Option("--shuffle", min=0, help="Batches to draw rows from; 0: the order of the data.")]
HeldOut = Annotated[int, typer.Option("--held-out", min=0, help="Batches kept from training, to evaluate on.")]
Evaluations = Annotated[int, typer.Option("--evaluations", min=1, help="Held-out losses on the way.")]
Keep = Annotated[str, typer.Option("--keep", help="Weights of the best held-out loss, or the last: best, last.")]

Steps = Annotated[int, typer.Option("--steps", min=1, help="Updates of the weights.", rich_help_panel=_UPDATES)]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate", min=1, help="Batches whose gradients are added for one update.", rich_help_panel=_UPDATES
    ),
]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="Its peak.", rich_help_panel=_UPDATES)]
Schedule = Annotated[
    str,
    typer.Option(
        "--schedule", help="cosine, wsd (both end at a tenth of the peak) or constant.", rich_help_panel=_UPDATES
    ),
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup", help="Share of the steps during which the learning rate rises from 0.", rich_help_panel=_UPDATES
    ),
]
Decay = Annotated[
    float,
    typer.Option(
        "--decay",
        help="With --schedule wsd: share of the steps, at the end, during which it falls.",
        rich_help_panel=_UPDATES,
    ),
]
WeightDecay = Annotated[
    float, typer.Option("--weight-decay", min=0, help="Of matrices, not gains and biases.", rich_help_panel=_UPDATES)
]
Clip = Annotated[float, typer.Option("--clip", help="Largest norm of the gradient.", rich_help_panel=_UPDATES)]

Dropout = Annotated[
    float,
    typer.Option(
        "--dropout",
        help="Probability, at the usual places (attention, behind each branch, embeddings).",
        rich_help_panel=_UPDATES,
    ),
]

Teacher = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        help="An ONNX file to learn from, or a folder with one.",
        rich_help_panel=_TEACHER,
        show_default=False,
    ),
]
TeacherWeight = Annotated[
    float,
    typer.Option(
        "--teacher-weight",
        help="Share of the loss (0 to 1) that imitates the teacher; the task's own loss has the rest.",
        rich_help_panel=_TEACHER,
    ),
]
HiddenWeight = Annotated[
    float | None,
    typer.Option(
        "--hidden-weight",
        help="Of its hidden states, falling to 0 by half the run (default: 1 where over 30 % of its blocks are gone).",
        rich_help_panel=_TEACHER,
        show_default=False,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="A folder that keeps what it says, for the next pass and the next run.",
        rich_help_panel=_TEACHER,
        show_default=False,
    ),
]
TOP = "Likeliest tokens that --cache keeps, of a vocabulary over 1,024."
Top = Annotated[int, typer.Option("--top", min=1, help=TOP, rich_help_panel=_TEACHER)]

Precision = Annotated[str, typer.Option("--precision", help="fp32 or bf16.", rich_help_panel=_RUN)]
Compile = Annotated[bool, typer.Option("--compile", help="With torch.compile.", rich_help_panel=_RUN)]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Recompute activations: less memory, more time.", rich_help_panel=_RUN)
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N",
        min=1,
        help="Write OUTPUT.partial every N steps (default: a tenth of them).",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with OUTPUT.partial, of a run that was stopped.", rich_help_panel=_RUN)
]
Logs = Annotated[
    Path | None,
    typer.Option("--logs", help="A folder for TensorBoard.", rich_help_panel=_RUN, show_default=False),
]
