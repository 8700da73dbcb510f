"""Writes TensorBoard event files, where a folder is given for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphclone.requirements import FEATURES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Logs:
    """Curves by name; without a folder nothing is written."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def start(self, step: int) -> None:
        """Begin, or go on: what a run that was killed wrote at ``step`` and after it is dropped."""
        if self.folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise FEATURES["logs"].missing("logs") from None
        self.writer = SummaryWriter(str(self.folder), purge_step=step)

    def add(self, step: int, **values: float) -> None:
        """A point on each of these curves; ``train_loss`` is shown as train/loss."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name.replace("_", "/", 1), value, step)

    def flush(self) -> None:
        """Write what is held back, so that a state on disk never knows of a step that the curves have lost."""
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        """Write what is held back."""
        if self.writer is not None:
            self.writer.close()
