"""Training an imported module, alone or beside its teacher, on one process or many."""

from __future__ import annotations

from graphclone.pytorch.training.examples import Setting
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.loop import evaluate, train
from graphclone.pytorch.training.optimiser import reinitialised
from graphclone.pytorch.training.options import TrainingDiverged, TrainingOptions
from graphclone.pytorch.training.tasks import TASKS

__all__ = [
    "TASKS",
    "History",
    "Setting",
    "TrainingDiverged",
    "TrainingOptions",
    "evaluate",
    "reinitialised",
    "train",
]
