"""train: ONNX at both ends, PyTorch in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from graphclone.cli import idle, show
from graphclone.cli import options as o
from graphclone.cli import training_options as t
from graphclone.cli.app import app
from graphclone.cli.curve import curve
from graphclone.statistics import request

if TYPE_CHECKING:
    from graphclone.pytorch.training.files import Asked, Result

EXAMPLES = (
    "Examples:"
    "\n\n  graphclone train small.onnx --data python-docs --tokenizer tokenizer.json --steps 200 -o trained.onnx"
    "\n\n  graphclone train small.onnx --data corpus.jsonl --tokenizer tokenizer.json --teacher parent.onnx"
    " --steps 5000 --learning-rate 3e-4 --precision bf16 --logs runs/one -o trained.onnx"
    "\n\n  graphclone train encoder.onnx --task embedding --teacher parent.onnx --data texts/"
    " --tokenizer tokenizer.json --cache said -o trained.onnx --json"
    "\n\n  graphclone train vit.onnx --task image-classification --data photos/ --shuffle 64 -o trained.onnx"
    "\n\n  torchrun --nproc_per_node 8 -m graphclone train small.onnx --data corpus.jsonl"
    " --tokenizer tokenizer.json --batch-size 64 -o trained.onnx --resume"
)


@app.command(epilog=EXAMPLES)
def train(
    clone: o.ClonePath,
    output: o.Output,
    data: t.TrainingData,
    task: t.Task = "causal-lm",
    tokenizer: o.Tokenizer = None,
    column: o.Column = None,
    images: o.Images = None,
    read: t.Read = None,
    length: o.Length = 128,
    batch_size: o.BatchSize = 8,
    limit: o.Limit = None,
    shuffle: t.Shuffle = 0,
    held_out: t.HeldOut = 2,
    evaluations: t.Evaluations = 4,
    keep: t.Keep = "best",
    steps: t.Steps = 100,
    accumulate: t.Accumulate = 1,
    learning_rate: t.LearningRate = 1e-3,
    schedule: t.Schedule = "cosine",
    warmup: t.Warmup = 0.05,
    decay: t.Decay = 0.2,
    weight_decay: t.WeightDecay = 0.0,
    clip: t.Clip = 1.0,
    teacher: t.Teacher = None,
    teacher_weight: t.TeacherWeight = 1.0,
    hidden_weight: t.HiddenWeight = None,
    cache: t.Cache = None,
    top: t.Top = 64,
    precision: t.Precision = "fp32",
    compile: t.Compile = False,  # noqa: A002
    recompute: t.Recompute = False,
    dropout: t.Dropout = 0.0,
    checkpoint_every: t.CheckpointEvery = None,
    resume: t.Resume = False,
    logs: t.Logs = None,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Train a clone in PyTorch, alone or beside its teacher; ONNX at both ends."""
    given = locals()
    idle.refuse_of_training(given)
    from graphclone.pytorch.training.files import stopped, train_file

    main = os.environ.get("RANK", "0") == "0"
    try:
        with show.progress("training", quiet=not main) as tick:
            result = train_file(_asked(given), progress=lambda done, total, _: tick(done, total), say=show.say)
    except KeyboardInterrupt:
        if main:
            show.say(f"training: {stopped(output)}")
        raise
    if result.main:
        _print(result, given)


def _asked(given: dict[str, Any]) -> Asked:
    """The command line as the training room takes it."""
    from graphclone.pytorch.training import TrainingOptions
    from graphclone.pytorch.training.files import Asked

    same = (
        "steps", "learning_rate", "weight_decay", "warmup", "clip", "seed", "schedule", "decay", "dropout", "task",
        "teacher_weight", "hidden_weight", "precision", "compile", "recompute", "keep",
    )  # fmt: skip
    steps = given["steps"]
    options = TrainingOptions(
        **{name: given[name] for name in same},
        accumulation=given["accumulate"],
        evaluate_every=max(1, steps // given["evaluations"]),
        checkpoint_every=given["checkpoint_every"] or max(1, steps // 10),
    )
    drawn = ("data", "tokenizer", "length", "batch_size", "limit", "seed", "column", "images")
    data = request.Calibration(**{name: given[name] for name in drawn})
    beside = ("teacher", "held_out", "cache", "top", "read", "shuffle", "resume", "logs")
    return Asked(given["clone"], given["output"], data, options, **{name: given[name] for name in beside})


def _print(result: Result, given: dict[str, Any]) -> None:
    history, output = result.history, given["output"]
    if given["json"]:
        held = {"losses": history.losses, "held_out": history.evaluations, "best": history.best}
        said = {"notes": history.notes}
        counts = {"tokens": history.tokens, "seconds": history.seconds, "teacher_batches": history.taught}
        verified = result.report.to_dict()
        return show.as_json({"output": str(output), **counts, **held, **said, "verification": verified})
    if history.evaluations:
        show.table(("step", "held-out loss"), history.evaluations)
        print()
    for line in curve(list(enumerate(history.losses, 1)), "loss of each step"):
        print(line)
    best = f", weights of step {history.best[0]:,}" if history.best and given["keep"] == "best" else ""
    print(f"\n{output}: {len(history.losses):,} steps, {history.tokens:,} targets{best}; {result.report.summary}")
